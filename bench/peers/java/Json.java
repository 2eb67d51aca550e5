import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.PropertyNamingStrategies;
import java.io.IOException;
import java.io.UncheckedIOException;

/** JSON by Jackson, field names in snake case. */
final class Json {
  private static final ObjectMapper MAPPER =
      new ObjectMapper().setPropertyNamingStrategy(PropertyNamingStrategies.SNAKE_CASE);

  private Json() {}

  static byte[] encode(Object value) {
    try {
      return value == null ? null : MAPPER.writeValueAsBytes(value);
    } catch (IOException error) {
      throw new UncheckedIOException(error);
    }
  }

  static <T> T decode(byte[] bytes, Class<T> type) {
    try {
      return bytes == null ? null : MAPPER.readValue(bytes, type);
    } catch (IOException error) {
      throw new UncheckedIOException(error);
    }
  }
}
