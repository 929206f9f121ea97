import java.nio.file.Files;
import java.nio.file.Path;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.List;
import java.util.stream.IntStream;

/** Adds up in a hundred tasks on eight threads, with garbage for the collector, and starts a process. */
public class Threads {
    static long part(int number) {
        long sum = 0;
        for (int i = 0; i < 100_000; i++) {
            sum += new int[] {i, number}[0];
        }
        return sum;
    }

    public static void main(String[] arguments) throws Exception {
        ExecutorService pool = Executors.newFixedThreadPool(8);
        List<Callable<Long>> parts =
                IntStream.range(0, 100).<Callable<Long>>mapToObj(number -> () -> part(number)).toList();
        long sum = 0;
        for (Future<Long> part : pool.invokeAll(parts)) {
            sum += part.get();
        }
        pool.shutdown();
        String echoed = new String(
                new ProcessBuilder("echo", "child").start().getInputStream().readAllBytes());
        Files.writeString(Path.of("/output/sum.txt"), sum + " " + echoed);
    }
}
