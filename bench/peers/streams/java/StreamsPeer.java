import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Comparator;
import java.util.HashMap;
import java.util.Map;
import java.util.stream.Stream;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.state.Stores;

/**
 * The gate's work as a Kafka Streams application: three topics, one processor, one store, one thread.
 *
 * <p>Says {@code running <application id>} on its output when all its tasks run. A line on its input ends that
 * application and starts a second one in this same, now warm, virtual machine: application id {@code <group>-warm}, from
 * the beginning of the topics. SIGTERM ends it.
 */
public final class StreamsPeer {
    private final Map<String, String> arguments;
    private final Path stateDirectory;
    private KafkaStreams running;

    private StreamsPeer(Map<String, String> arguments) throws IOException {
        this.arguments = arguments;
        this.stateDirectory = Files.createTempDirectory("streams-peer-");
    }

    public static void main(String[] words) throws IOException {
        Map<String, String> arguments = new HashMap<>();
        for (int i = 0; i + 1 < words.length; i += 2) {
            arguments.put(words[i], words[i + 1]);
        }
        StreamsPeer peer = new StreamsPeer(arguments);
        Runtime.getRuntime().addShutdownHook(new Thread(peer::end));
        String group = peer.argument("--group");
        peer.start(group);
        BufferedReader input = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        if (input.readLine() != null) {
            peer.stop();
            peer.start(group + "-warm");
        }
    }

    private String argument(String name) {
        String value = arguments.get(name);
        if (value == null) {
            throw new IllegalArgumentException("missing " + name);
        }
        return value;
    }

    private synchronized void start(String applicationId) {
        StreamsConfig config = new StreamsConfig(Configuration.of(
                applicationId,
                argument("--bootstrap"),
                stateDirectory,
                argument("--commit-interval-ms"),
                argument("--max-task-idle-ms")));
        KafkaStreams streams = new KafkaStreams(topology(), config);
        int partitions = Integer.parseInt(argument("--partitions"));
        streams.setStateListener((now, before) -> {
            if (now == KafkaStreams.State.RUNNING && tasks(streams) == partitions) {
                System.out.println("running " + applicationId);
            }
        });
        streams.setUncaughtExceptionHandler(error -> {
            error.printStackTrace();
            Runtime.getRuntime().halt(1); // whoever measures must see it, not wait
            return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
        });
        running = streams;
        streams.start();
    }

    private static int tasks(KafkaStreams streams) {
        return streams.metadataForLocalThreads().stream().mapToInt(thread -> thread.activeTasks().size()).sum();
    }

    private Topology topology() {
        String inputs = argument("--inputs-prefix");
        Topology topology = new Topology();
        String[] roles = {"context", "steps", "results"};
        for (String role : roles) {
            topology.addSource(
                    role, Serdes.String().deserializer(), Serdes.ByteArray().deserializer(), inputs + "." + role + ".v1");
        }
        topology.addProcessor("gate", GateProcessor::new, roles);
        var store = Stores.keyValueStoreBuilder(
                Stores.inMemoryKeyValueStore(GateProcessor.STORE), Serdes.String(), SessionSerde.serde());
        topology.addStateStore(Configuration.CACHED ? store.withCachingEnabled() : store.withCachingDisabled(), "gate");
        topology.addSink(
                "verdicts",
                argument("--output-topic"),
                Serdes.String().serializer(),
                Serdes.ByteArray().serializer(),
                "gate");
        return topology;
    }

    private synchronized void stop() {
        if (running != null) {
            running.close(Duration.ofSeconds(20));
            running = null;
        }
    }

    private void end() {
        stop();
        try (Stream<Path> files = Files.walk(stateDirectory)) {
            for (Path file : files.sorted(Comparator.reverseOrder()).toList()) {
                Files.deleteIfExists(file);
            }
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
    }
}
