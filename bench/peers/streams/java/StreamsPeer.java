import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.HashMap;
import java.util.Map;
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
 * application and starts a second one in this same, now warm, virtual machine, from the beginning of the topics: with
 * {@code -warm} behind the application id and behind the prefix of the outputs. SIGTERM ends it.
 */
public final class StreamsPeer {
    private final Map<String, String> arguments;
    private KafkaStreams running;

    private StreamsPeer(Map<String, String> arguments) {
        this.arguments = arguments;
    }

    public static void main(String[] words) throws IOException {
        Map<String, String> arguments = new HashMap<>();
        for (int i = 0; i + 1 < words.length; i += 2) {
            arguments.put(words[i], words[i + 1]);
        }
        StreamsPeer peer = new StreamsPeer(arguments);
        Runtime.getRuntime().addShutdownHook(new Thread(peer::stop));
        peer.start("");
        BufferedReader input = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        if (input.readLine() != null) {
            peer.stop();
            peer.start("-warm");
        }
    }

    private String argument(String name) {
        String value = arguments.get(name);
        if (value == null) {
            throw new IllegalArgumentException("missing " + name);
        }
        return value;
    }

    private synchronized void start(String pass) {
        String applicationId = argument("--group") + pass;
        StreamsConfig config = new StreamsConfig(
                Configuration.of(applicationId, argument("--bootstrap"), argument("--commit-interval-ms")));
        KafkaStreams streams = new KafkaStreams(topology(argument("--output-prefix") + pass + ".verdicts"), config);
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

    private Topology topology(String verdicts) {
        String inputs = argument("--inputs-prefix");
        Topology topology = new Topology();
        String[] roles = {"context", "steps", "results"};
        for (String role : roles) {
            topology.addSource(
                    role,
                    Serdes.String().deserializer(),
                    Serdes.ByteArray().deserializer(),
                    inputs + "." + role + ".v1");
        }
        topology.addProcessor("gate", GateProcessor::new, roles);
        // Without a record cache: what it spares the changelog is less than what its lookups cost (22 against 34 µs of
        // CPU per event, on a busy machine).
        var store = Stores.keyValueStoreBuilder(
                        Stores.inMemoryKeyValueStore(GateProcessor.STORE), Serdes.String(), SessionSerde.serde())
                .withCachingDisabled()
                .withLoggingEnabled(Map.of());
        topology.addStateStore(store, "gate");
        topology.addSink(
                "verdicts",
                verdicts,
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
}
