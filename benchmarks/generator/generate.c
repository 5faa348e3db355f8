/* The load generator of the benchmarks: WebSocket connections that always have the same number of requests pending,
 * refilled as answers come; or one connection with requests at fixed times. Linux only.
 *
 *   load run NAME=VALUE... < TEXTS
 *   load echo
 *
 * TEXTS are four strings, each after a line with its length: the request, with its id at `id_offset`, which is overwritten
 * each time; the mark that stands before the id in an answer; the result that must stand in each answer; and an opening
 * message, or nothing. The outcome is one line of JSON on stdout.
 *
 *   mode=requests    each answer makes room for another request
 *   mode=broadcast   the first connection asks for broadcasts, two at a time; each delivery of the result counts
 *   mode=hold        opens the connections, prints "ready", and answers pings until stdin ends
 *
 * With separate=1 each request is a send() of its own, as browsers do; else what one read caused is written together.
 *
 * With rate=N, one connection sends N requests per second, evenly spaced, whatever becomes of earlier ones. The latency
 * of a request counts from the time at which it was to be sent, not from when it was: a server (or a generator) that
 * stands still for a moment delays all that were to be sent meanwhile, and is charged with each of them. A generator
 * that waits for answers before it sends on would leave those out ("coordinated omission"). Only requests that were to
 * be sent after the warm-up count. How late the generator's own sends were is in the outcome.
 *
 * Both ends poll their sockets instead of sleeping. A server then never pays for waking the generator up, which would
 * cost most to the one that makes the most send() calls. */
#include "wire.h"

#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define FIRST_ID 100000u /* six digits, or four bytes of MessagePack, so that the place of an id in a frame never moves */
#define ID_COUNT 65536u
#define STALL_SECONDS 8.0
#define HANG_UP_SECONDS 10.0
#define ROUNDS_AT_ONCE 2u
#define EVENTS 512

struct text {
    char *bytes;
    size_t size;
};

struct connection {
    int socket;
    bool waits_for_room; /* whether epoll was asked to say when it can be written to */
    struct buffer in, out;
};

static struct {
    int port, pid;
    const char *path, *mode;
    uint32_t connections, pending;
    double warm, seconds, rate;
    int opcode;
    bool separate, msgpack_id, socketio, greets;
    size_t id_offset;
    struct text request, mark, result, opening;
} plan = {.path = "/", .mode = "requests", .connections = 1, .pending = 1, .opcode = TEXT};

static struct connection *connections;
static int poll_set;
static struct text frame_of_request; /* masked */
static size_t header_size;
static uint32_t owner[ID_COUNT]; /* 0, or which connection asked, counted from 1 */
static uint32_t next_id, requests_pending;
static uint64_t answers, wrong, rounds, deliveries;

/* With a rate: when the request with that id was to be sent, and what came of those that count. */
static double due[ID_COUNT], counts_from, last_read;
static struct values {
    double *seconds;
    size_t count, room;
} took_each, late_each;

/* ---- options ---- */

static void take_option(const char *option) {
    const char *value = strchr(option, '=');
    if (value == NULL) fail("not NAME=VALUE: %s", option);
    size_t size = (size_t)(value++ - option);
#define IS(name) (size == sizeof name - 1 && strncmp(option, name, size) == 0)
    if (IS("port")) plan.port = atoi(value);
    else if (IS("pid")) plan.pid = atoi(value);
    else if (IS("path")) plan.path = value;
    else if (IS("mode")) plan.mode = value;
    else if (IS("connections")) plan.connections = (uint32_t)atoi(value);
    else if (IS("pending")) plan.pending = (uint32_t)atoi(value);
    else if (IS("warm")) plan.warm = atof(value);
    else if (IS("seconds")) plan.seconds = atof(value);
    else if (IS("rate")) plan.rate = atof(value);
    else if (IS("binary")) plan.opcode = atoi(value) ? BINARY : TEXT;
    else if (IS("separate")) plan.separate = atoi(value);
    else if (IS("msgpack_id")) plan.msgpack_id = atoi(value);
    else if (IS("socketio")) plan.socketio = atoi(value);
    else if (IS("greets")) plan.greets = atoi(value);
    else if (IS("id_offset")) plan.id_offset = (size_t)atol(value);
    else fail("no such option: %s", option);
#undef IS
}

static struct text read_text(void) {
    struct text text;
    if (scanf("%zu", &text.size) != 1 || getchar() != '\n') fail("a length and its text were expected on stdin");
    text.bytes = malloc(text.size + 1);
    if (text.bytes == NULL || fread(text.bytes, 1, text.size, stdin) != text.size) fail("a text on stdin is too short");
    text.bytes[text.size] = '\0';
    return text;
}

/* ---- opening and closing ---- */

static bool wait_for_frame(struct connection *connection) {
    double until = seconds_now() + STALL_SECONDS;
    struct frame frame;
    while (seconds_now() < until) {
        if (next_frame(&connection->in, &frame)) return frame.opcode != CLOSE;
        struct buffer seen;
        int got = read_more(connection->socket, &connection->in, &seen);
        if (got < 0) return false;
        if (got > 0) keep_rest(&connection->in, &seen);
    }
    return false;
}

/* From one address of 127.0.0.0/8 after another: one alone has too few ports for what a run opens. */
static int dial(uint32_t number) {
    struct sockaddr_in from = {.sin_family = AF_INET}, to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)plan.port)};
    from.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + number % 100);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    struct timeval patience = {.tv_sec = (time_t)STALL_SECONDS};
    int one = socket(AF_INET, SOCK_STREAM, 0);
    if (one < 0) fail("no socket: %s", strerror(errno));
    if (bind(one, (struct sockaddr *)&from, sizeof from) != 0 || connect(one, (struct sockaddr *)&to, sizeof to) != 0)
        fail("cannot connect to port %d: %s", plan.port, strerror(errno));
    no_delay(one);
    setsockopt(one, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    char head[8192];
    int size = snprintf(head, sizeof head,
                        "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                        "Sec-WebSocket-Key: AAECAwQFBgcICQoLDA0ODw==\r\nSec-WebSocket-Version: 13\r\n\r\n",
                        plan.path, plan.port);
    if (send(one, head, (size_t)size, MSG_NOSIGNAL) != size) fail("cannot send the handshake");
    read_http_head(one, head, sizeof head);
    if (strncmp(head, "HTTP/1.1 101 ", 13) != 0) fail("the server refused the upgrade: %s", head);
    no_blocking(one);
    return one;
}

static void open_connections(void) {
    connections = calloc(plan.connections, sizeof *connections);
    poll_set = epoll_create1(0);
    if (connections == NULL || poll_set < 0) fail("out of memory");
    for (uint32_t at = 0; at < plan.connections; at++) {
        struct connection *one = &connections[at];
        one->socket = dial(at);
        /* Socket.IO: the server's open packet, then ours that asks for the namespace, then its consent. */
        if (plan.socketio && !wait_for_frame(one)) fail("no open packet of Socket.IO came");
        if (plan.opening.size > 0) {
            append_frame(&one->out, TEXT, plan.opening.bytes, plan.opening.size, true);
            flush(one->socket, &one->out);
        }
        if (plan.socketio && !wait_for_frame(one)) fail("Socket.IO did not let us into the namespace");
        if (plan.greets && !wait_for_frame(one)) fail("no answer came to the opening message");
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = one};
        if (epoll_ctl(poll_set, EPOLL_CTL_ADD, one->socket, &event) != 0) fail("epoll: %s", strerror(errno));
    }
}

/* Says goodbye and waits for the end, so that no server has an abnormal closure to report, or is still at it later. */
static void hang_up(void) {
    uint32_t open = plan.connections;
    static unsigned char rest[1 << 16];
    for (uint32_t at = 0; at < plan.connections; at++) {
        append_frame(&connections[at].out, CLOSE, "\x03\xe8", 2, true);
        flush(connections[at].socket, &connections[at].out);
    }
    double until = seconds_now() + HANG_UP_SECONDS;
    while (open > 0 && seconds_now() < until) {
        struct epoll_event events[EVENTS];
        int count = epoll_wait(poll_set, events, EVENTS, 100);
        for (int at = 0; at < count; at++) {
            struct connection *one = events[at].data.ptr;
            flush(one->socket, &one->out);
            ssize_t got = recv(one->socket, rest, sizeof rest, MSG_DONTWAIT);
            if (got > 0 || (got < 0 && errno == EAGAIN)) continue;
            close(one->socket);
            open--;
        }
    }
}

/* ---- requests ---- */

static void prepare(void) {
    frame_of_request.bytes = malloc(plan.request.size + 14);
    if (frame_of_request.bytes == NULL) fail("out of memory");
    unsigned char *bytes = (unsigned char *)frame_of_request.bytes;
    header_size = write_header(bytes, plan.opcode, plan.request.size, true);
    memcpy(bytes + header_size, plan.request.bytes, plan.request.size);
    apply_mask(bytes + header_size, plan.request.size, mask);
    frame_of_request.size = header_size + plan.request.size;
}

static void write_id(uint32_t id) {
    char digits[7];
    size_t size = plan.msgpack_id ? 4 : 6;
    if (plan.msgpack_id)
        for (int at = 0; at < 4; at++) digits[at] = (char)(id >> (24 - 8 * at));
    else
        snprintf(digits, sizeof digits, "%06" PRIu32, id);
    for (size_t at = plan.id_offset; at < plan.id_offset + size; at++)
        frame_of_request.bytes[header_size + at] = (char)(digits[at - plan.id_offset] ^ mask[at & 3]);
}

static void append_request(struct connection *one) {
    while (owner[next_id] != 0) next_id = (next_id + 1) % ID_COUNT;
    owner[next_id] = (uint32_t)(one - connections) + 1;
    write_id(FIRST_ID + next_id);
    next_id = (next_id + 1) % ID_COUNT;
    requests_pending++;
    append(&one->out, frame_of_request.bytes, frame_of_request.size);
    if (plan.separate) flush(one->socket, &one->out);
}

static void keep(struct values *values, double seconds) {
    if (values->count < values->room) values->seconds[values->count++] = seconds;
}

static struct values new_values(size_t room) {
    struct values values = {.seconds = malloc(room * sizeof(double)), .room = room};
    if (values.seconds == NULL) fail("out of memory");
    memset(values.seconds, 0, room * sizeof(double)); /* so that no page is missing while it is measured */
    return values;
}

/* The id after the mark, or 0. */
static uint32_t read_id(const unsigned char *text, size_t length) {
    const unsigned char *end = text + length, *at = memmem(text, length, plan.mark.bytes, plan.mark.size);
    uint32_t id = 0;
    if (at == NULL) return 0;
    at += plan.mark.size;
    if (plan.msgpack_id)
        for (int count = 0; count < 4 && at < end; count++) id = id << 8 | *at++;
    else
        while (at < end && *at >= '0' && *at <= '9' && id < 1000000) id = id * 10 + (uint32_t)(*at++ - '0');
    return id;
}

static bool has_result(const unsigned char *text, size_t length) {
    const unsigned char *end = text + length;
    /* Searched by its beginning, then compared: searching for a long string would cost more than all the rest. */
    size_t beginning = plan.result.size < 6 ? plan.result.size : 6;
    const unsigned char *found = memmem(text, length, plan.result.bytes, beginning);
    if (found == NULL || (size_t)(end - found) < plan.result.size) return false;
    if (memcmp(found, plan.result.bytes, plan.result.size) != 0) return false;
    /* A longer number begins with the right digits, too. */
    const unsigned char *after = found + plan.result.size;
    return after == end || ((*after < '0' || *after > '9') && *after != '.' && *after != 'e');
}

/* Checks one answer: the id of a request that is pending on this connection, and the right result. True: a request may
 * take its place. */
static bool take_answer(struct connection *one, const unsigned char *text, size_t length) {
    uint32_t id = read_id(text, length), me = (uint32_t)(one - connections) + 1;
    if (id < FIRST_ID || id >= FIRST_ID + ID_COUNT || owner[id - FIRST_ID] != me) {
        wrong++;
        return false;
    }
    owner[id - FIRST_ID] = 0;
    requests_pending--;
    answers++;
    if (!has_result(text, length)) wrong++;
    else if (plan.rate > 0 && due[id - FIRST_ID] >= counts_from) keep(&took_each, last_read - due[id - FIRST_ID]);
    return true;
}

/* ---- requests at fixed times ---- */

/* Sends what was to be sent by now on the first connection, which is the only one. */
static void send_due(double began, double now, double end) {
    static uint64_t sent;
    for (double when; (when = began + (double)(sent + 1) / plan.rate) <= now && when < end; sent++) {
        if (requests_pending == ID_COUNT / 2) return; /* the ids are used up: the rest is late */
        while (owner[next_id] != 0) next_id = (next_id + 1) % ID_COUNT;
        due[next_id] = when;
        append_request(&connections[0]);
        flush(connections[0].socket, &connections[0].out);
        if (when >= counts_from) keep(&late_each, seconds_now() - when);
    }
}

static int compare(const void *left, const void *right) {
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

/* Of sorted values, the smallest that is not below that share of them. */
static double percentile(const struct values *values, double share) {
    size_t rank = (size_t)(share * (double)values->count);
    return values->count == 0 ? 0 : values->seconds[rank < values->count ? rank : values->count - 1];
}

static void print_latency(void) {
    qsort(took_each.seconds, took_each.count, sizeof(double), compare);
    qsort(late_each.seconds, late_each.count, sizeof(double), compare);
    printf(",\"latency\":{\"p50\":%.9f,\"p99\":%.9f,\"p999\":%.9f,\"longest\":%.9f,\"late\":%.9f}",
           percentile(&took_each, 0.5), percentile(&took_each, 0.99), percentile(&took_each, 0.999),
           percentile(&took_each, 1), percentile(&late_each, 0.99));
}

/* ---- broadcasts ---- */

static void ask_for_broadcasts(void) {
    while (rounds * plan.connections < deliveries + ROUNDS_AT_ONCE * plan.connections) {
        if (plan.id_offset > 0) write_id(FIRST_ID + (uint32_t)(rounds % ID_COUNT));
        append(&connections[0].out, frame_of_request.bytes, frame_of_request.size);
        rounds++;
    }
    flush(connections[0].socket, &connections[0].out);
}

/* Deliveries, of which some servers put several in a frame, or the answer to what asked for them. */
static void take_delivery(const unsigned char *text, size_t length) {
    const unsigned char *end = text + length, *at = text, *found;
    while ((found = memmem(at, (size_t)(end - at), plan.result.bytes, plan.result.size)) != NULL) {
        deliveries++;
        answers++;
        at = found + plan.result.size;
    }
    if (at > text) return;
    if (plan.mark.size == 0 || memmem(text, length, plan.mark.bytes, plan.mark.size) == NULL) {
        wrong++;
    }
}

static uint64_t missing(void) {
    return strcmp(plan.mode, "broadcast") == 0 ? rounds * plan.connections - deliveries : requests_pending;
}

/* ---- the loop ---- */

static void take_frame(struct connection *one, const struct frame *frame, bool refill) {
    switch (frame->opcode) {
        case PING:
            append_frame(&one->out, PONG, frame->payload, frame->length, true);
            break;
        case PONG:
            break;
        case CLOSE:
            fail("the server closed the connection: %d %.*s",
                 frame->length < 2 ? 0 : frame->payload[0] << 8 | frame->payload[1],
                 frame->length < 2 ? 0 : (int)frame->length - 2, (const char *)frame->payload + 2);
        default:
            if (plan.socketio && frame->length == 1 && frame->payload[0] == '2') {
                append_frame(&one->out, TEXT, "3", 1, true); /* Engine.IO has pings of its own */
            } else if (strcmp(plan.mode, "hold") == 0 || frame->opcode != plan.opcode) {
                break; /* the answer to an opening message is text */
            } else if (strcmp(plan.mode, "broadcast") == 0) {
                take_delivery(frame->payload, frame->length);
            } else if (take_answer(one, frame->payload, frame->length) && refill) {
                append_request(one);
            }
    }
}

static void ask_for_room(struct connection *one) {
    bool wants = one->out.start < one->out.end;
    if (wants == one->waits_for_room) return;
    one->waits_for_room = wants;
    struct epoll_event event = {.events = wants ? EPOLLIN | EPOLLOUT : EPOLLIN, .data.ptr = one};
    epoll_ctl(poll_set, EPOLL_CTL_MOD, one->socket, &event);
}

/* True: something came. */
static bool serve(struct connection *one, bool refill) {
    struct buffer seen;
    struct frame frame;
    int got = read_more(one->socket, &one->in, &seen);
    if (got < 0) fail("the other end went away without a Close frame");
    if (got > 0) {
        if (plan.rate > 0) last_read = seconds_now();
        while (next_frame(&seen, &frame)) take_frame(one, &frame, refill);
        keep_rest(&one->in, &seen);
    }
    if (!flush(one->socket, &one->out)) fail("the other end went away");
    ask_for_room(one);
    return got > 0;
}

static bool serve_all(bool refill) {
    /* One connection alone is tried without asking epoll first. */
    if (plan.connections == 1) return serve(&connections[0], refill);
    struct epoll_event events[EVENTS];
    int count = epoll_wait(poll_set, events, EVENTS, 0);
    bool some = false;
    for (int at = 0; at < count; at++) some |= serve(events[at].data.ptr, refill);
    return some;
}

static double cpu_seconds(clockid_t clock) {
    struct timespec value;
    if (clock_gettime(clock, &value) != 0) fail("the server is gone");
    return (double)value.tv_sec + (double)value.tv_nsec * 1e-9;
}

static void measure(void) {
    bool broadcasts = strcmp(plan.mode, "broadcast") == 0;
    clockid_t server_clock;
    if (clock_getcpuclockid(plan.pid, &server_clock) != 0) fail("cannot see the CPU time of process %d", plan.pid);
    if (broadcasts) {
        ask_for_broadcasts();
    } else if (plan.rate > 0) {
        took_each = new_values((size_t)(plan.rate * plan.seconds) + 2);
        late_each = new_values(took_each.room);
    } else {
        for (uint32_t at = 0; at < plan.connections; at++) {
            for (uint32_t count = 0; count < plan.pending; count++) append_request(&connections[at]);
            flush(connections[at].socket, &connections[at].out);
            ask_for_room(&connections[at]);
        }
    }
    enum { WARMING, MEASURING, DRAINING } phase = WARMING;
    double started = seconds_now(), now = started, next = now + plan.warm, last_data = now;
    counts_from = next;
    double began = 0, took = 0, server = 0;
    uint64_t counted = 0;
    while (phase != DRAINING || missing() > 0) {
        bool data = serve_all(phase != DRAINING && plan.rate == 0);
        now = seconds_now();
        if (plan.rate > 0) send_due(started, now, counts_from + plan.seconds);
        if (data) {
            last_data = now;
            if (broadcasts && phase != DRAINING) ask_for_broadcasts();
        } else if (now - last_data > STALL_SECONDS && missing() > 0) {
            if (phase == DRAINING) break;
            fail("no answer for %.0f s, with %" PRIu64 " missing", STALL_SECONDS, missing());
        }
        if (phase == DRAINING || now < next) continue;
        if (phase == WARMING) {
            phase = MEASURING;
            began = now;
            next = now + plan.seconds;
            server = cpu_seconds(server_clock);
            counted = answers;
        } else {
            phase = DRAINING;
            took = now - began;
            server = cpu_seconds(server_clock) - server;
            counted = answers - counted;
        }
    }
    uint64_t unanswered = missing();
    hang_up();
    printf("{\"answers\":%" PRIu64 ",\"checked\":%" PRIu64 ",\"seconds\":%.6f,\"wrong\":%" PRIu64 ",\"unanswered\":%" PRIu64
           ",\"server_cpu\":%.4f",
           counted, answers, took, wrong, unanswered, server / took);
    if (plan.rate > 0) print_latency();
    puts("}");
}

static void hold(void) {
    puts("ready");
    fflush(stdout);
    struct epoll_event events[EVENTS], ending = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(poll_set, EPOLL_CTL_ADD, STDIN_FILENO, &ending);
    for (;;) {
        int count = epoll_wait(poll_set, events, EVENTS, -1);
        for (int at = 0; at < count; at++) {
            if (events[at].data.ptr == NULL) {
                epoll_ctl(poll_set, EPOLL_CTL_DEL, STDIN_FILENO, NULL);
                hang_up();
                return;
            }
            serve(events[at].data.ptr, false);
        }
    }
}

static int generate(int count, char **options) {
    for (int at = 0; at < count; at++) take_option(options[at]);
    /* Unbuffered, so that nothing that comes later is taken from stdin. */
    setvbuf(stdin, NULL, _IONBF, 0);
    plan.request = read_text();
    plan.mark = read_text();
    plan.result = read_text();
    plan.opening = read_text();
    if (plan.connections < 1 || plan.pending < 1 || (uint64_t)plan.connections * plan.pending > ID_COUNT / 2)
        fail("connections times pending must be from 1 to %u", ID_COUNT / 2);
    if (plan.rate > 0 && plan.connections > 1) fail("a rate is for one connection");
    prepare();
    open_connections();
    if (strcmp(plan.mode, "hold") == 0) hold();
    else measure();
    return 0;
}

int main(int count, char **arguments) {
    if (count > 2 && strcmp(arguments[1], "run") == 0) return generate(count - 2, arguments + 2);
    if (count == 2 && strcmp(arguments[1], "echo") == 0) return serve_echo();
    fputs("usage: load run NAME=VALUE... < TEXTS\n       load echo\n", stderr);
    return 2;
}
