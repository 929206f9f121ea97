"""Counts words with Spark on two local cores."""

from pathlib import Path

from pyspark.sql import SparkSession

spark = SparkSession.builder.master("local[2]").appName("counting").getOrCreate()
numbers = spark.range(100_000)
counted = numbers.selectExpr("id % 7 AS rest").groupBy("rest").count().collect()
Path("/output/counts.txt").write_text(" ".join(str(row["count"]) for row in sorted(counted)))
spark.stop()
