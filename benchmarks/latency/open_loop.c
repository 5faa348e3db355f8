/* The load generator of the latency measurements: requests on one WebSocket connection at fixed times. Linux only.
 *
 *   open_loop PORT SERVER_PID RATE WARM_SECONDS SECONDS REQUEST RESULT
 *
 * RATE is in requests per second, evenly spaced. The latency of a request counts from the time at which it was to be
 * sent, not from when it was: a server (or a generator) that stands still for a moment delays all that were to be sent
 * meanwhile, and is charged with each of them. A generator that waits for answers before it sends on would leave those
 * out ("coordinated omission"). With RATE 0 it does just that, with PENDING requests at a time, to find out which rate
 * the server can carry at most.
 *
 * REQUEST is the message to send, with a six-digit id after "i": that is overwritten each time. RESULT is what must
 * stand in each answer, followed by a comma or a closing brace. One send() for each request, as browsers do it. The
 * outcome is one line of JSON on stdout, in seconds. Only requests that were to be sent after the warm-up count.
 *
 * It polls its socket and the clock instead of sleeping, so that no timer adds to what is measured. How late its own
 * sends were is in the outcome: "late" is their 99th percentile.
 */
#include "../generator/wire.h"

#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define PENDING 64u
#define FIRST_ID 100000u /* six digits, so that the place of an id in a frame never moves */
#define ID_COUNT 65536u
#define STALL_SECONDS 5.0

static struct {
    int socket;
    struct buffer request; /* a whole masked frame */
    size_t id_at, payload_size;
    const char *result;
    size_t result_size;
    struct buffer in, out;
    double due[ID_COUNT]; /* when the request with that id was to be sent; 0: it is not pending */
    uint32_t next_id, pending;
    uint64_t sent, answers, wrong;
    double counts_from; /* requests that were due earlier are the warm-up */
    double *took, *late;
    size_t took_count, late_count, room;
} load;

static double clock_seconds(clockid_t clock) {
    struct timespec value;
    if (clock_gettime(clock, &value) != 0) fail("cannot read a clock: %s", strerror(errno));
    return (double)value.tv_sec + (double)value.tv_nsec * 1e-9;
}

/* ---- the connection ---- */

static void dial(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    load.socket = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(load.socket, (struct sockaddr *)&address, sizeof address) != 0)
        fail("cannot connect to port %d: %s", port, strerror(errno));
    no_delay(load.socket);
    char head[8192];
    int size = snprintf(head, sizeof head,
                        "GET / HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                        "Sec-WebSocket-Key: AAECAwQFBgcICQoLDA0ODw==\r\nSec-WebSocket-Version: 13\r\n\r\n",
                        port);
    if (send(load.socket, head, (size_t)size, MSG_NOSIGNAL) != size) fail("cannot send the handshake");
    read_http_head(load.socket, head, sizeof head);
    if (strncmp(head, "HTTP/1.1 101 ", 13) != 0) fail("the server refused the upgrade: %s", head);
}

static void send_out(void) {
    if (!flush(load.socket, &load.out)) fail("send failed: %s", strerror(errno));
}

/* ---- requests and answers ---- */

static void prepare(const char *request, const char *result) {
    const char *key = strstr(request, "\"i\":");
    if (key == NULL) fail("the request has no id");
    append_frame(&load.request, TEXT, request, strlen(request), true);
    load.payload_size = strlen(request);
    load.id_at = load.request.end - strlen(key) + 4;
    load.result = result;
    load.result_size = strlen(result);
}

/* Sends a request that was due at that time. False: as many are pending as there are ids. */
static bool send_request(double due) {
    if (load.pending == ID_COUNT) return false;
    while (load.due[load.next_id] != 0) load.next_id = (load.next_id + 1) % ID_COUNT;
    uint32_t slot = load.next_id, digits = FIRST_ID + slot;
    load.due[slot] = due;
    load.next_id = (slot + 1) % ID_COUNT;
    load.pending++;
    load.sent++;
    size_t header = load.request.end - load.payload_size;
    for (size_t place = load.id_at + 6; place-- > load.id_at; digits /= 10)
        load.request.bytes[place] = (unsigned char)(('0' + digits % 10) ^ mask[(place - header) & 3]);
    append(&load.out, load.request.bytes, load.request.end);
    send_out();
    return true;
}

/* Checks one answer: the id of a pending request, and the right result. */
static void take_answer(const unsigned char *text, size_t length, double came) {
    const unsigned char *end = text + length;
    const unsigned char *key = memmem(text, length, "\"i\":", 4);
    const unsigned char *digit = key == NULL ? end : key + 4;
    uint32_t id = 0;
    for (; digit < end && *digit >= '0' && *digit <= '9' && id < 1000000; digit++)
        id = id * 10 + (uint32_t)(*digit - '0');
    if (id < FIRST_ID || id >= FIRST_ID + ID_COUNT || load.due[id - FIRST_ID] == 0) {
        load.wrong++;
        return;
    }
    double due = load.due[id - FIRST_ID];
    load.due[id - FIRST_ID] = 0;
    load.pending--;
    const unsigned char *found = memmem(text, length, load.result, load.result_size);
    const unsigned char *after = found == NULL ? end : found + load.result_size;
    if (after >= end || (*after != ',' && *after != '}')) {
        load.wrong++;
        return;
    }
    if (due < load.counts_from) return;
    load.answers++;
    if (load.took_count < load.room) load.took[load.took_count++] = came - due;
}

/* Reads what is there. False: nothing yet. */
static bool take_frames(void) {
    struct buffer seen;
    struct frame frame;
    int outcome = read_more(load.socket, &load.in, &seen);
    if (outcome < 0) fail("the server went away without a Close frame");
    if (outcome == 0) return false;
    double came = seconds_now();
    while (next_frame(&seen, &frame)) {
        if (frame.opcode == TEXT) take_answer(frame.payload, frame.length, came);
        if (frame.opcode == PING) append_frame(&load.out, PONG, frame.payload, frame.length, true);
        if (frame.opcode == CLOSE) fail("the server closed the connection");
    }
    keep_rest(&load.in, &seen);
    return true;
}

/* Says goodbye and waits for the end, so that no server has an abnormal closure to report. */
static void hang_up(void) {
    struct timeval patience = {.tv_sec = 2};
    char rest[4096];
    setsockopt(load.socket, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    append_frame(&load.out, CLOSE, "\x03\xe8", 2, true);
    send_out();
    while (recv(load.socket, rest, sizeof rest, 0) > 0) continue;
    close(load.socket);
}

/* ---- the run ---- */

static int compare(const void *left, const void *right) {
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

/* Of sorted values, the smallest that is not below that share of them. */
static double percentile(const double *values, size_t count, double share) {
    if (count == 0) return 0;
    size_t rank = (size_t)(share * (double)count);
    return values[rank < count ? rank : count - 1];
}

static double *new_values(size_t count) {
    double *values = malloc(count * sizeof *values);
    if (values == NULL) fail("out of memory");
    memset(values, 0, count * sizeof *values); /* so that no page is missing while it is measured */
    return values;
}

int main(int count, char **arguments) {
    if (count != 8) {
        fputs("usage: open_loop PORT SERVER_PID RATE WARM_SECONDS SECONDS REQUEST RESULT\n", stderr);
        return 2;
    }
    clockid_t server_clock;
    if (clock_getcpuclockid((pid_t)atoi(arguments[2]), &server_clock) != 0)
        fail("cannot see the CPU time of process %s", arguments[2]);
    double rate = atof(arguments[3]), warm = atof(arguments[4]), seconds = atof(arguments[5]);
    load.room = rate > 0 ? (size_t)(rate * seconds) + 2 : 0;
    load.took = new_values(load.room + 1);
    load.late = new_values(load.room + 1);
    prepare(arguments[6], arguments[7]);
    dial(atoi(arguments[1]));

    double began = seconds_now(), end = began + warm + seconds, time = began, heard = began, server = 0;
    bool counting = false, counted = false;
    load.counts_from = began + warm;
    while (time < end || load.pending > 0) {
        bool answered = take_frames();
        time = seconds_now();
        if (answered) heard = time;
        if (!counting && time >= load.counts_from) {
            counting = true;
            server = clock_seconds(server_clock);
        }
        if (counting && !counted && time >= end) {
            counted = true;
            server = clock_seconds(server_clock) - server;
        }
        if (rate == 0) {
            while (time < end && load.pending < PENDING && send_request(time)) continue;
        } else {
            for (double due; (due = began + (double)(load.sent + 1) / rate) <= time && due < end;) {
                if (!send_request(due)) break;
                double sent = seconds_now();
                if (due >= load.counts_from && load.late_count < load.room) load.late[load.late_count++] = sent - due;
            }
        }
        if (load.out.start < load.out.end) send_out();
        if (load.pending == 0) heard = time;
        if (time - heard > STALL_SECONDS) {
            if (time > end) break;
            fail("no answer for %.0f s, with %" PRIu32 " requests pending", STALL_SECONDS, load.pending);
        }
    }
    uint32_t unanswered = load.pending;
    hang_up();
    qsort(load.took, load.took_count, sizeof *load.took, compare);
    qsort(load.late, load.late_count, sizeof *load.late, compare);
    printf("{\"answers\":%" PRIu64 ",\"seconds\":%.6f,\"wrong\":%" PRIu64 ",\"unanswered\":%" PRIu32
           ",\"server_cpu\":%.4f,\"p50\":%.9f,\"p99\":%.9f,\"p999\":%.9f,\"longest\":%.9f,\"late\":%.9f}\n",
           load.answers, seconds, load.wrong, unanswered, server / seconds, percentile(load.took, load.took_count, 0.5),
           percentile(load.took, load.took_count, 0.99), percentile(load.took, load.took_count, 0.999),
           percentile(load.took, load.took_count, 1), percentile(load.late, load.late_count, 0.99));
    return 0;
}
