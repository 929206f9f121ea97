import java.nio.file.Files;
import java.nio.file.Path;

public class Hello {
    public static void main(String[] arguments) throws Exception {
        Files.writeString(Path.of("/output/hello"), "hello\n");
    }
}
