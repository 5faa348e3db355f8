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
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PENDING 64u
#define BUFFER_SIZE (4u << 20)
#define LARGEST 4096u
#define FIRST_ID 100000u /* six digits, so that the place of an id in a frame never moves */
#define ID_COUNT 65536u
#define STALL_SECONDS 5.0

enum { TEXT = 1, CLOSE = 8, PING = 9, PONG = 10 };

static const unsigned char mask[4] = {0x5a, 0xc3, 0x17, 0x8e};

static struct {
    int socket;
    unsigned char frame[LARGEST + 8]; /* a whole masked request */
    size_t frame_size, header_size, id_offset;
    const char *result;
    size_t result_size;
    unsigned char in[BUFFER_SIZE], out[BUFFER_SIZE];
    size_t in_start, in_end, out_start, out_end;
    double due[ID_COUNT]; /* when the request with that id was to be sent; 0: it is not pending */
    uint32_t next_id, pending;
    uint64_t sent, answers, wrong;
    double counts_from; /* requests that were due earlier are the warm-up */
    double *took, *late;
    size_t took_count, late_count, room;
} load;

static void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("open_loop: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    exit(1);
}

static double clock_seconds(clockid_t clock) {
    struct timespec value;
    if (clock_gettime(clock, &value) != 0) fail("cannot read a clock: %s", strerror(errno));
    return (double)value.tv_sec + (double)value.tv_nsec * 1e-9;
}

static double now(void) { return clock_seconds(CLOCK_MONOTONIC); }

static void apply_mask(unsigned char *payload, size_t length) {
    for (size_t at = 0; at < length; at++) payload[at] ^= mask[at & 3];
}

/* ---- the connection ---- */

static void dial(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    load.socket = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(load.socket, (struct sockaddr *)&address, sizeof address) != 0)
        fail("cannot connect to port %d: %s", port, strerror(errno));
    int on = 1;
    setsockopt(load.socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    char head[8192];
    int size = snprintf(head, sizeof head,
                        "GET / HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                        "Sec-WebSocket-Key: AAECAwQFBgcICQoLDA0ODw==\r\nSec-WebSocket-Version: 13\r\n\r\n",
                        port);
    if (send(load.socket, head, (size_t)size, MSG_NOSIGNAL) != size) fail("cannot send the handshake");
    size_t used = 0;
    while (used < 4 || memcmp(head + used - 4, "\r\n\r\n", 4) != 0) {
        if (used + 1 == sizeof head) fail("the HTTP head is too long");
        if (recv(load.socket, head + used, 1, 0) != 1) fail("the connection ended during the handshake");
        used++;
    }
    head[used] = '\0';
    if (strncmp(head, "HTTP/1.1 101 ", 13) != 0) fail("the server refused the upgrade: %s", head);
}

/* Sends what the socket takes now and keeps the rest. */
static void flush(void) {
    while (load.out_start < load.out_end) {
        ssize_t sent = send(load.socket, load.out + load.out_start, load.out_end - load.out_start,
                            MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno == EAGAIN || errno == EINTR) return;
            fail("send failed: %s", strerror(errno));
        }
        load.out_start += (size_t)sent;
    }
    load.out_start = load.out_end = 0;
}

static void append(const unsigned char *bytes, size_t size) {
    if (load.out_end + size > BUFFER_SIZE) fail("the server reads nothing any more");
    memcpy(load.out + load.out_end, bytes, size);
    load.out_end += size;
}

/* Reads what is there. False: nothing yet. */
static bool fill(void) {
    if (load.in_start == load.in_end) load.in_start = load.in_end = 0;
    if (load.in_end == BUFFER_SIZE) {
        memmove(load.in, load.in + load.in_start, load.in_end - load.in_start);
        load.in_end -= load.in_start;
        load.in_start = 0;
    }
    ssize_t got = recv(load.socket, load.in + load.in_end, BUFFER_SIZE - load.in_end, MSG_DONTWAIT);
    if (got == 0) fail("the server went away without a Close frame");
    if (got < 0) {
        if (errno == EAGAIN || errno == EINTR) return false;
        fail("recv failed: %s", strerror(errno));
    }
    load.in_end += (size_t)got;
    return true;
}

static void send_control(int opcode, const unsigned char *payload, size_t length) {
    unsigned char frame[131] = {(unsigned char)(0x80 | opcode), (unsigned char)(0x80 | length)};
    memcpy(frame + 2, mask, 4);
    memcpy(frame + 6, payload, length);
    apply_mask(frame + 6, length);
    append(frame, length + 6);
}

/* ---- requests and answers ---- */

static void prepare(const char *request, const char *result) {
    size_t length = strlen(request);
    const char *key = strstr(request, "\"i\":");
    if (key == NULL) fail("the request has no id");
    if (length > LARGEST) fail("the request is too long");
    load.frame[0] = 0x80 | TEXT;
    load.header_size = 2;
    if (length < 126) {
        load.frame[1] = (unsigned char)(0x80 | length);
    } else {
        load.frame[1] = 0x80 | 126;
        load.frame[2] = (unsigned char)(length >> 8);
        load.frame[3] = (unsigned char)length;
        load.header_size = 4;
    }
    memcpy(load.frame + load.header_size, mask, 4);
    load.header_size += 4;
    load.id_offset = (size_t)(key - request) + 4;
    memcpy(load.frame + load.header_size, request, length);
    apply_mask(load.frame + load.header_size, length);
    load.frame_size = load.header_size + length;
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
    for (size_t place = load.id_offset + 6; place-- > load.id_offset; digits /= 10)
        load.frame[load.header_size + place] = (unsigned char)(('0' + digits % 10) ^ mask[place & 3]);
    append(load.frame, load.frame_size);
    flush();
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

static void take_frames(double came) {
    for (;;) {
        unsigned char *bytes = load.in + load.in_start;
        size_t available = load.in_end - load.in_start, header = 2;
        if (available < 2) return;
        if ((bytes[0] & 0x70) != 0 || (bytes[0] & 0x80) == 0) fail("a fragmented or compressed message came");
        size_t length = bytes[1];
        if (length > 126) fail("a masked message came, or one of 64 KiB and more");
        if (length == 126) {
            if (available < 4) return;
            length = (size_t)bytes[2] << 8 | bytes[3];
            header = 4;
        }
        if (available < header + length) return;
        int opcode = bytes[0] & 0x0f;
        if (opcode == CLOSE) fail("the server closed the connection");
        if (opcode == TEXT) take_answer(bytes + header, length, came);
        if (opcode == PING) send_control(PONG, bytes + header, length);
        load.in_start += header + length;
    }
}

/* Says goodbye and waits for the end, so that no server has an abnormal closure to report. */
static void hang_up(void) {
    struct timeval patience = {.tv_sec = 2};
    char rest[4096];
    setsockopt(load.socket, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    send_control(CLOSE, (const unsigned char *)"\x03\xe8", 2);
    flush();
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

    double began = now(), end = began + warm + seconds, time = began, heard = began, server = 0;
    uint64_t number = 0;
    bool counting = false;
    load.counts_from = began + warm;
    while (time < end || load.pending > 0) {
        if (fill()) {
            heard = now();
            take_frames(heard);
        }
        time = now();
        if (!counting && time >= load.counts_from) {
            counting = true;
            server = clock_seconds(server_clock);
        }
        if (counting && time >= end && number > 0) { /* once: nothing is sent from here on */
            server = clock_seconds(server_clock) - server;
            number = 0;
        }
        if (rate == 0) {
            while (time < end && load.pending < PENDING && send_request(time)) number++;
        } else {
            for (double due; (due = began + (double)(load.sent + 1) / rate) <= time && due < end;) {
                if (!send_request(due)) break;
                number++;
                double sent = now();
                if (due >= load.counts_from && load.late_count < load.room) load.late[load.late_count++] = sent - due;
            }
        }
        if (load.out_start < load.out_end) flush();
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
