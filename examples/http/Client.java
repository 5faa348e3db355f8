// Calls the server of docs/how-to/http.md from Java 11 or later, without packages: a call, an error, and a run.
//
//     java Client.java [url]

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.charset.StandardCharsets;
import java.util.UUID;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.ScheduledFuture;
import java.util.concurrent.TimeUnit;

public class Client {
    // uvicorn loses the bodies of requests that offer HTTP/2.
    static final HttpClient HTTP = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
    static final ScheduledExecutorService TIMER = Executors.newSingleThreadScheduledExecutor(task -> {
        Thread thread = new Thread(task);
        thread.setDaemon(true);
        return thread;
    });

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
                HttpRequest asked = request(url, args, position);
                HttpResponse<InputStream> response = HTTP.send(asked, BodyHandlers.ofInputStream());
                InputStream body = response.body();
                BufferedReader lines = new BufferedReader(new InputStreamReader(body, StandardCharsets.UTF_8));
                int status = response.statusCode();
                if (status != 200 && status != 429 && status < 502) { // an error, or 204: it was read
                    lines.lines().forEach(System.out::println);
                    return;
                }
                String id = position, event = "", data = "";
                for (String line; (line = next(lines, body)) != null;) { // after 429, none is an event
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
                        if (event.equals("cut")) {
                            break;
                        }
                        System.out.println(event.isEmpty() ? data : event + ": " + data);
                        if (!event.isEmpty()) { // the run has failed
                            return;
                        }
                        position = id;
                        data = "";
                    }
                }
            } catch (IOException dropped) {
                // and so it asks again
            }
            Thread.sleep(1000);
        }
    }

    /** Returns the next line. After 30 seconds without one, the response was cut: a comment comes every 15 seconds. */
    static String next(BufferedReader lines, InputStream body) throws IOException {
        ScheduledFuture<?> silent = TIMER.schedule(() -> { body.close(); return null; }, 30, TimeUnit.SECONDS);
        try {
            return lines.readLine();
        } finally {
            silent.cancel(false);
        }
    }

    public static void main(String[] args) throws IOException, InterruptedException {
        String url = args.length > 0 ? args[0] : "http://127.0.0.1:8000";
        call(url + "/call/add", "{\"a\": 2, \"b\": 3}");
        call(url + "/call/add", "{\"a\": 2, \"b\": \"x\"}");
        read(url + "/runs/answer/" + UUID.randomUUID(), "{\"question\": \"Why?\"}");
    }
}
