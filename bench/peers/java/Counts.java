/** A user's counts in one window, and the event that came last. */
public class Counts {
  public String eventId;
  public String userId;
  public long clicks;
  public long browses;
  public long purchases;

  public Counts add(Click event) {
    switch (event.eventType) {
      case "click" -> clicks++;
      case "browse" -> browses++;
      case "purchase" -> purchases++;
      default -> throw new IllegalArgumentException("no such event type: " + event.eventType);
    }
    eventId = event.eventId;
    userId = event.userId;
    return this;
  }
}
