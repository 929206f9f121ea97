import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;

/** Prog ROOT: what tests/support/truth/expected.py says of it. */
public class Prog {
    static String root;

    static Path below(String path) {
        return Path.of(root + path);
    }

    static int run(String... command) throws Exception {
        return new ProcessBuilder(command).start().waitFor();
    }

    static void network() throws Exception {
        InetAddress lo = InetAddress.getByAddress(new byte[] {127, 0, 0, 1});
        try (ServerSocket listener = new ServerSocket(21017, 1, lo)) {
            Socket caller = new Socket(lo, 21017);
            listener.accept().close();
            caller.close();
        }
        try (Socket caller = new Socket()) {
            caller.connect(new InetSocketAddress(lo, 21019));
            throw new IllegalStateException("somebody is there");
        } catch (IOException expected) {
            System.out.println(expected.getMessage());
        }
    }

    public static void main(String[] arguments) throws Exception {
        root = arguments[0];
        byte[] data = Files.readAllBytes(below("/input/data.csv"));
        Files.write(below("/output/made"), data);
        Files.move(below("/output/made"), below("/output/sp ace"));
        Files.createLink(below("/output/hard"), below("/output/sp ace"));
        Files.createSymbolicLink(below("/output/soft"), Path.of("sp ace"));
        Files.createDirectory(below("/output/folder"));
        Files.writeString(below("/output/folder/new\nline"), "ab");
        Files.delete(below("/output/folder/new\nline"));
        Files.delete(below("/output/folder"));
        Files.writeString(below("/tmp/quo\"te'"), "abc");
        try {
            Files.readAllBytes(below("/output/absent"));
        } catch (NoSuchFileException expected) {
            System.out.println("absent");
        }
        Thread thread = new Thread(() -> {
            try {
                Files.writeString(below("/output/thread"), "abcd");
            } catch (IOException error) {
                throw new IllegalStateException(error);
            }
        });
        thread.start();
        thread.join();
        System.out.println(run("/bin/true", "a b", "new\nline"));
        System.out.println(run("/bin/sh", "-c", "exit 4"));
        Process echoing = new ProcessBuilder("/bin/cat").start();
        echoing.getOutputStream().write('x');
        echoing.getOutputStream().flush();
        // It runs by now.
        echoing.getInputStream().read();
        echoing.destroyForcibly().waitFor();
        network();
    }
}
