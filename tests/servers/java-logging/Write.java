// Writes stamped lines through Logback or Log4j, as a Java service writes its log, and says at the
// end how many: java -cp 'lib/*' Write.java (logback|log4j) CONFIG LINES PER_SECOND. The rolling is
// all in CONFIG. Not for anything but the scenario that starts it.
import ch.qos.logback.classic.LoggerContext;
import java.nio.charset.StandardCharsets;
import java.util.Random;
import java.util.function.Consumer;
import java.util.zip.CRC32C;
import org.apache.logging.log4j.core.config.Configurator;
import org.slf4j.LoggerFactory;

public class Write {
    public static void main(String[] args) throws Exception {
        String config = args[1];
        long lines = Long.parseLong(args[2]), perSecond = Long.parseLong(args[3]);
        if (args[0].equals("logback")) {
            System.setProperty("logback.configurationFile", config);
            var context = (LoggerContext) LoggerFactory.getILoggerFactory();
            write(context.getLogger("app")::info, lines, perSecond);
            // Waits for the compression of what was rolled.
            context.stop();
        } else {
            var context = Configurator.initialize("app", config);
            write(context.getLogger("app")::info, lines, perSecond);
            context.stop();
        }
        System.out.println("wrote " + lines);
    }

    private static void write(Consumer<String> log, long lines, long perSecond) throws Exception {
        Random random = new Random(7);
        long began = System.nanoTime();
        for (long seq = 0; seq < lines; seq++) {
            log.accept(stamped(seq, random));
            // Pacing, not waiting: a real log is not written at once.
            long early = began + seq * 1_000_000_000L / perSecond - System.nanoTime();
            if (early > 5_000_000) Thread.sleep(early / 1_000_000);
        }
    }

    /** The rig's stamp: see tests/src/writer.rs. */
    private static String stamped(long seq, Random random) {
        String place = String.format("file=0001 gen=000 seq=%012d", seq);
        StringBuilder filler = new StringBuilder("INFO [http-8080-exec-3] com.example.Cart - item ");
        int length = 40 + random.nextInt(300);
        for (int i = 0; i < length; i++) filler.append((char) ('a' + random.nextInt(26)));
        CRC32C crc = new CRC32C();
        crc.update((place + filler).getBytes(StandardCharsets.UTF_8));
        return String.format("stamp=1 %s crc=%08x %s", place, crc.getValue(), filler);
    }
}
