import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.time.Duration;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.errors.WakeupException;
import org.apache.kafka.common.serialization.StringDeserializer;

/**
 * Prints predictions from Kafka, each once.
 *
 * <p>Needs org.apache.kafka:kafka-clients and com.fasterxml.jackson.core:jackson-databind.
 * Arguments: brokers and topic, for example 127.0.0.1:9092 predictions.
 */
public class Subscribe {
    /** The ids of the last predictions. It must exceed the number that a worker writes between two commits. */
    private static final int REMEMBERED = 200_000;

    public static void main(String[] args) throws Exception {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", args[0]);
        settings.put("group.id", args[1] + "-to-stdout");
        settings.put("auto.offset.reset", "earliest");
        settings.put("enable.auto.commit", "false");
        settings.put("isolation.level", "read_committed");
        settings.put("key.deserializer", StringDeserializer.class.getName());
        settings.put("value.deserializer", StringDeserializer.class.getName());

        Set<String> seen = Collections.newSetFromMap(new LinkedHashMap<>() {
            @Override
            protected boolean removeEldestEntry(Map.Entry<String, Boolean> eldest) {
                return size() > REMEMBERED;
            }
        });
        ObjectMapper json = new ObjectMapper();
        KafkaConsumer<String, String> consumer = new KafkaConsumer<>(settings);
        Thread main = Thread.currentThread();
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {  // SIGTERM or Ctrl-C
            consumer.wakeup();
            try {
                main.join();
            } catch (InterruptedException e) {
                Thread.currentThread().interrupt();
            }
        }));
        long repeats = 0;
        try {
            consumer.subscribe(List.of(args[1]));
            while (true) {
                for (ConsumerRecord<String, String> record : consumer.poll(Duration.ofSeconds(1))) {
                    JsonNode prediction = json.readTree(record.value());
                    if (seen.add(prediction.get("id").asText())) {
                        use(prediction);
                    } else {
                        repeats++;
                    }
                }
                consumer.commitSync();
            }
        } catch (WakeupException e) {
            // the shutdown hook asked us to stop
        } finally {
            consumer.close();
        }
        System.err.println(repeats + " repeats dropped");
    }

    private static void use(JsonNode prediction) {
        System.out.println(prediction.get("id").asText()
                + " " + prediction.get("user_id").asText()
                + " " + prediction.get("purchase_probability")
                + " " + prediction.get("items"));
    }
}
