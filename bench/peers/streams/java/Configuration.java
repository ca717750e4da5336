import java.util.Properties;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.streams.StreamsConfig;

/** What Kafka Streams is told. Everything that is not a name or an address is there to make it faster. */
final class Configuration {
    private Configuration() {}

    static Properties of(String applicationId, String bootstrap, String commitIntervalMs) {
        Properties all = new Properties();
        all.put(StreamsConfig.APPLICATION_ID_CONFIG, applicationId);
        all.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, bootstrap);
        all.put(StreamsConfig.STATE_DIR_CONFIG, "state");
        all.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
        all.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 1);
        all.put(StreamsConfig.REPLICATION_FACTOR_CONFIG, 1);
        all.put(StreamsConfig.ENABLE_METRICS_PUSH_CONFIG, false);
        // A task with an empty queue does not wait for records that may yet be written, and does wait for those that it
        // knows are on the broker: all that alignment needs where the topics were filled before.
        all.put(StreamsConfig.MAX_TASK_IDLE_MS_CONFIG, 0);
        all.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, commitIntervalMs);
        all.put(StreamsConfig.BUFFERED_RECORDS_PER_PARTITION_CONFIG, 10_000);
        consumer(all, ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "earliest");
        consumer(all, ConsumerConfig.MAX_POLL_RECORDS_CONFIG, 10_000);
        consumer(all, ConsumerConfig.MAX_PARTITION_FETCH_BYTES_CONFIG, 1 << 20);
        consumer(all, ConsumerConfig.FETCH_MAX_BYTES_CONFIG, 64 << 20);
        consumer(all, ConsumerConfig.RECEIVE_BUFFER_CONFIG, 1 << 20);
        consumer(all, ConsumerConfig.CHECK_CRCS_CONFIG, false); // as the other clients compared here
        producer(all, ProducerConfig.LINGER_MS_CONFIG, 100);
        producer(all, ProducerConfig.BATCH_SIZE_CONFIG, 512 << 10);
        producer(all, ProducerConfig.BUFFER_MEMORY_CONFIG, 128L << 20);
        producer(all, ProducerConfig.SEND_BUFFER_CONFIG, 1 << 20);
        producer(all, ProducerConfig.COMPRESSION_TYPE_CONFIG, "none"); // the broker is on this machine
        return all;
    }

    private static void consumer(Properties all, String name, Object value) {
        all.put(StreamsConfig.mainConsumerPrefix(name), value);
    }

    private static void producer(Properties all, String name, Object value) {
        all.put(StreamsConfig.producerPrefix(name), value);
    }
}
