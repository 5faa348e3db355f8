// Calls the server of docs/how-to/http.md from Java 11 or later, without packages: a call, an error, and a run.
//
//     java Client.java [url]

import java.io.IOException;
import java.io.UncheckedIOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.util.UUID;
import java.util.stream.Stream;

public class Client {
    // uvicorn loses the bodies of requests that offer HTTP/2.
    static final HttpClient HTTP = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();

    /** Returns a request with arguments by name, as JSON. */
    static HttpRequest request(String url, String args, String position) {
        return HttpRequest.newBuilder(URI.create(url))
                .header("Authorization", "Bearer t-4711")
                .header("Content-Type", "application/json")
                .header("Last-Event-ID", position)
                .POST(HttpRequest.BodyPublishers.ofString(args))
                .build();
    }

    /** Makes a call, and prints the status and the result or the error, as JSON. */
    static void call(String url, String args) throws IOException, InterruptedException {
        HttpResponse<String> response = HTTP.send(request(url, args, ""), BodyHandlers.ofString());
        System.out.println(response.statusCode() + " " + response.body());
    }

    /** Prints the items of a run, which this starts or joins. After a drop, it continues where it was. */
    static void read(String url, String args) throws InterruptedException {
        String position = "";
        while (true) {
            try {
                HttpResponse<Stream<String>> response = HTTP.send(request(url, args, position), BodyHandlers.ofLines());
                int status = response.statusCode();
                if (status != 200 && status != 429 && status < 502) { // an error, or 204: it was read
                    response.body().forEach(System.out::println);
                    return;
                }
                String id = position, event = "", data = "";
                for (String line : (Iterable<String>) response.body()::iterator) { // after 429, none is an event
                    if (line.startsWith("id: ")) {
                        id = line.substring(4);
                    } else if (line.startsWith("event: ")) {
                        event = line.substring(7);
                    } else if (line.startsWith("data: ")) {
                        data = line.substring(6);
                    } else if (line.isEmpty() && !data.isEmpty()) {
                        if (event.equals("end")) {
                            return;
                        }
                        System.out.println(event.isEmpty() ? data : event + ": " + data);
                        if (!event.isEmpty()) { // the run has failed
                            return;
                        }
                        position = id;
                        data = "";
                    }
                }
            } catch (IOException | UncheckedIOException dropped) {
                // and so it asks again
            }
            Thread.sleep(1000);
        }
    }

    public static void main(String[] args) throws IOException, InterruptedException {
        String url = args.length > 0 ? args[0] : "http://127.0.0.1:8000";
        call(url + "/call/add", "{\"a\": 2, \"b\": 3}");
        call(url + "/call/add", "{\"a\": 2, \"b\": \"x\"}");
        read(url + "/runs/answer/" + UUID.randomUUID(), "{\"question\": \"Why?\"}");
    }
}
