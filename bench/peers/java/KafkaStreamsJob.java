import java.time.Duration;
import java.util.Map;
import java.util.Properties;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.KeyValue;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.kstream.TimeWindows;
import org.apache.kafka.streams.state.WindowStore;

/** The counts in the Streams DSL: windowed aggregate in RocksDB with a changelog, every update forwarded. */
public final class KafkaStreamsJob {
  private static final Map<String, String> ENV = System.getenv();
  private static final Duration WINDOW = Duration.ofSeconds(60);
  private static final Duration GRACE = Duration.ofHours(1);

  private KafkaStreamsJob() {}

  public static void main(String[] arguments) {
    KafkaStreams streams = new KafkaStreams(topology(), settings());
    Runtime.getRuntime().addShutdownHook(new Thread(() -> streams.close(Duration.ofSeconds(15))));
    streams.start();
  }

  private static Topology topology() {
    Serde<Click> clicks = json(Click.class);
    // No record cache: it would forward only the last of several updates, and each event must be answered.
    var store =
        Materialized.<String, Counts, WindowStore<Bytes, byte[]>>as("counts")
            .withKeySerde(Serdes.String())
            .withValueSerde(json(Counts.class))
            .withCachingDisabled();
    StreamsBuilder builder = new StreamsBuilder();
    builder.stream(
            ENV.get("IN"),
            Consumed.with(Serdes.String(), clicks)
                .withTimestampExtractor((message, before) -> ((Click) message.value()).millis()))
        .groupByKey(Grouped.with(Serdes.String(), clicks))
        .windowedBy(TimeWindows.ofSizeAndGrace(WINDOW, GRACE))
        .aggregate(Counts::new, (user, event, counts) -> counts.add(event), store)
        .toStream()
        .map(
            (window, counts) ->
                KeyValue.pair(
                    window.key(), Answer.of(window.key(), window.window().start(), counts)))
        .to(ENV.get("OUT"), Produced.with(Serdes.String(), json(Answer.class)));
    return builder.build();
  }

  private static Properties settings() {
    Properties settings = new Properties();
    settings.put(StreamsConfig.APPLICATION_ID_CONFIG, ENV.get("RID"));
    settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, ENV.get("BROKER"));
    settings.put(StreamsConfig.STATE_DIR_CONFIG, ENV.get("STATE"));
    settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, ENV.get("THREADS"));
    settings.put(
        StreamsConfig.PROCESSING_GUARANTEE_CONFIG,
        ENV.getOrDefault("GUARANTEE", StreamsConfig.AT_LEAST_ONCE));
    if (ENV.containsKey("COMMIT_MS")) {
      // By default 30 s, with exactly-once 100 ms.
      settings.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, ENV.get("COMMIT_MS"));
    }
    settings.put(StreamsConfig.producerPrefix("batch.size"), 256 << 10);
    settings.put(StreamsConfig.producerPrefix("buffer.memory"), 64L << 20);
    settings.put(StreamsConfig.consumerPrefix("max.poll.records"), 5000);
    settings.put(StreamsConfig.consumerPrefix("max.partition.fetch.bytes"), 4 << 20);
    return settings;
  }

  private static <T> Serde<T> json(Class<T> type) {
    return Serdes.serdeFrom(
        (topic, value) -> Json.encode(value), (topic, bytes) -> Json.decode(bytes, type));
  }
}
