/** What is published for an event: the counts of its user and window, this event included. */
public class Answer {
  public String eventId;
  public String userId;
  public long windowStart; // Unix seconds
  public long clicks;
  public long browses;
  public long purchases;

  public static Answer of(String user, long windowMillis, Counts counts) {
    Answer answer = new Answer();
    answer.eventId = counts.eventId;
    answer.userId = user;
    answer.windowStart = windowMillis / 1000;
    answer.clicks = counts.clicks;
    answer.browses = counts.browses;
    answer.purchases = counts.purchases;
    return answer;
  }
}
