/** An event of the input topic; public fields and no constructor, as Flink's own serializer requires. */
public class Click {
  public String eventId;
  public String userId;
  public String eventType;
  public long itemId;
  public double ts; // Unix seconds

  public long millis() {
    return Math.round(ts * 1000);
  }
}
