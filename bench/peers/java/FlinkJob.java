import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Comparator;
import java.util.Map;
import java.util.Optional;
import java.util.Properties;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.functions.AggregateFunction;
import org.apache.flink.api.common.serialization.AbstractDeserializationSchema;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.connector.base.DeliveryGuarantee;
import org.apache.flink.connector.kafka.sink.KafkaRecordSerializationSchema;
import org.apache.flink.connector.kafka.sink.KafkaSink;
import org.apache.flink.connector.kafka.source.KafkaSource;
import org.apache.flink.connector.kafka.source.enumerator.initializer.OffsetsInitializer;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.windowing.ProcessWindowFunction;
import org.apache.flink.streaming.api.windowing.assigners.TumblingEventTimeWindows;
import org.apache.flink.streaming.api.windowing.triggers.CountTrigger;
import org.apache.flink.streaming.api.windowing.windows.TimeWindow;
import org.apache.flink.util.Collector;
import org.apache.kafka.clients.producer.ProducerRecord;

/** The counts in Flink's DataStream API, in a local cluster; each event fires its window, checkpoints go to STATE. */
public final class FlinkJob {
  private static final Map<String, String> ENV = System.getenv();

  private FlinkJob() {}

  public static void main(String[] arguments) throws Exception {
    Path folder = Files.createDirectories(Path.of(ENV.get("STATE")));
    int parallelism = Integer.parseInt(ENV.get("THREADS"));
    StreamExecutionEnvironment flink =
        StreamExecutionEnvironment.createLocalEnvironment(parallelism, settings(folder));
    var watermarks =
        WatermarkStrategy.<Click>forBoundedOutOfOrderness(Duration.ofSeconds(5))
            .withTimestampAssigner((event, before) -> event.millis())
            .withIdleness(Duration.ofSeconds(30));
    flink
        .fromSource(source(), watermarks, "clicks")
        .uid("clicks")
        .keyBy(event -> event.userId)
        .window(TumblingEventTimeWindows.of(Duration.ofSeconds(60)))
        .trigger(CountTrigger.of(1))
        .aggregate(new Count(), new Shape())
        .uid("counts")
        .sinkTo(sink())
        .uid("answers");
    flink.execute("counts");
  }

  private static Configuration settings(Path folder) throws IOException {
    Configuration settings = new Configuration();
    settings.setString("execution.checkpointing.interval", ENV.getOrDefault("CHECKPOINT", "10 s"));
    settings.setString("execution.checkpointing.mode", "AT_LEAST_ONCE");
    settings.setString("execution.checkpointing.dir", folder.toUri().toString());
    settings.setString(
        "execution.checkpointing.externalized-checkpoint-retention", "RETAIN_ON_CANCELLATION");
    settings.setString("state.backend.type", ENV.getOrDefault("BACKEND", "hashmap"));
    settings.setString("pipeline.object-reuse", "true");
    settings.setString("rest.port", "0");
    Optional<Path> checkpoint = lastCheckpoint(folder);
    if (checkpoint.isPresent()) {
      settings.setString("execution.state-recovery.path", checkpoint.get().toUri().toString());
    }
    return settings;
  }

  /** The newest complete checkpoint: the folder that holds a _metadata file. */
  private static Optional<Path> lastCheckpoint(Path folder) throws IOException {
    try (var files = Files.walk(folder, 3)) {
      return files
          .filter(file -> file.endsWith("_metadata"))
          .max(Comparator.comparingLong(file -> file.toFile().lastModified()))
          .map(Path::getParent);
    }
  }

  private static KafkaSource<Click> source() {
    return KafkaSource.<Click>builder()
        .setBootstrapServers(ENV.get("BROKER"))
        .setTopics(ENV.get("IN"))
        .setGroupId(ENV.get("RID"))
        .setStartingOffsets(OffsetsInitializer.earliest())
        .setValueOnlyDeserializer(new Reader())
        .setProperty("max.poll.records", "5000")
        .setProperty("max.partition.fetch.bytes", String.valueOf(4 << 20))
        .build();
  }

  private static KafkaSink<Answer> sink() {
    Properties producer = new Properties();
    producer.put("linger.ms", "20");
    producer.put("batch.size", String.valueOf(256 << 10));
    producer.put("buffer.memory", String.valueOf(64 << 20));
    return KafkaSink.<Answer>builder()
        .setBootstrapServers(ENV.get("BROKER"))
        .setKafkaProducerConfig(producer)
        .setDeliveryGuarantee(DeliveryGuarantee.AT_LEAST_ONCE)
        .setRecordSerializer(new Writer(ENV.get("OUT")))
        .build();
  }

  static class Reader extends AbstractDeserializationSchema<Click> {
    @Override
    public Click deserialize(byte[] bytes) {
      return Json.decode(bytes, Click.class);
    }
  }

  static class Writer implements KafkaRecordSerializationSchema<Answer> {
    private final String topic;

    Writer(String topic) {
      this.topic = topic;
    }

    @Override
    public ProducerRecord<byte[], byte[]> serialize(
        Answer answer, KafkaSinkContext context, Long timestamp) {
      byte[] key = answer.userId.getBytes(StandardCharsets.UTF_8);
      return new ProducerRecord<>(topic, key, Json.encode(answer));
    }
  }

  static class Count implements AggregateFunction<Click, Counts, Counts> {
    @Override
    public Counts createAccumulator() {
      return new Counts();
    }

    @Override
    public Counts add(Click event, Counts counts) {
      return counts.add(event);
    }

    @Override
    public Counts getResult(Counts counts) {
      return counts;
    }

    @Override
    public Counts merge(Counts one, Counts other) {
      throw new UnsupportedOperationException("tumbling windows do not merge");
    }
  }

  static class Shape extends ProcessWindowFunction<Counts, Answer, String, TimeWindow> {
    @Override
    public void process(
        String user, Context context, Iterable<Counts> counts, Collector<Answer> answers) {
      answers.collect(Answer.of(user, context.window().getStart(), counts.iterator().next()));
    }
  }
}
