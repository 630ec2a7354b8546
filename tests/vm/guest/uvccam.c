// uvccam: a USB webcam out of nothing. It plays the device's side of USB/IP over a socket whose other end it hands to the
// kernel's vhci-hcd, so that the real uvcvideo driver finds a camera and makes /dev/video nodes of it.
//
// usage: uvccam FOLDER PORT SERIAL     PORT 0-7 is a place on the bus; commands come on standard input, one a line:
//   plug, unplug          it starts unplugged
//   freeze, thaw          stay on the bus, but deliver nothing
//   show NAME             the picture: FOLDER/NAME-640x480.yuyv, NAME-640x480.jpg, NAME-1280x720.jpg
//   damage KIND           of JPEGs: none; cut (a third is left), stub (100 bytes), garbage, zeros, size (that of the other
//                         format), some (every second one cut)
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { PAYLOAD = 16384, YUY2 = 1, MJPG = 2, FORMATS = 3, MOST_PENDING = 64, PICTURE = 4 << 20 };

// What the camera offers; a cheap webcam lists raw pictures first. Each at 30 and at 15 pictures a second.
static const struct {
    int encoding, number, width, height;
    const char *file;
} formats[FORMATS] = {
    {YUY2, 1, 640, 480, "640x480.yuyv"},
    {MJPG, 1, 640, 480, "640x480.jpg"},
    {MJPG, 2, 1280, 720, "1280x720.jpg"},
};
static const uint32_t intervals[2] = {333333, 666666};  // units of 100 ns

static struct { uint8_t *bytes; size_t length; } pictures[FORMATS];
static const char *folder, *port, *serial;
static enum { WHOLE, CUT, STUB, GARBAGE, ZEROS, SIZE, SOME } damage;
static const char *const damages[] = {"none", "cut", "stub", "garbage", "zeros", "size", "some"};

static int sock = -1;  // to the kernel; -1 while unplugged
static int streaming, frozen, format;
static uint8_t probe[26], commit[26];  // UVC 1.0 video probe and commit controls
static struct { uint32_t sequence, length; } pending[MOST_PENDING];  // reads of the bulk endpoint that wait for data
static int pendings;

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec * 1e-9;
}

static uint32_t get32(const uint8_t *at) { return at[0] | at[1] << 8 | at[2] << 16 | (uint32_t)at[3] << 24; }

static void set32(uint8_t *at, uint32_t value) {
    for (int i = 0; i < 4; i++) at[i] = value >> 8 * i;
}

// Descriptors ------------------------------------------------------------------------------------------------------------

static const uint8_t device[18] = {18, 1, 0, 2, 0xef, 2, 1, 64, 0x09, 0x12, 1, 0, 0, 1, 1, 2, 3, 1};
static uint8_t configuration[512];
static int configured;

static void bytes(int count, const int *values) {
    for (int i = 0; i < count; i++) configuration[configured++] = values[i];
}
#define BYTES(...) bytes(sizeof((int[]){__VA_ARGS__}) / sizeof(int), (int[]){__VA_ARGS__})
#define TWO(value) (value) & 255, (value) >> 8 & 255
#define FOUR(value) TWO(value), TWO((value) >> 16)

static void describe_formats(int encoding) {
    int sizes = 0;
    for (int i = 0; i < FORMATS; i++) sizes += formats[i].encoding == encoding;
    if (encoding == YUY2)
        BYTES(27, 0x24, 4, YUY2, sizes, 'Y', 'U', 'Y', '2', 0, 0, 0x10, 0, 0x80, 0, 0, 0xaa, 0, 0x38, 0x9b, 0x71, 16, 1, 0, 0, 0, 0);
    else
        BYTES(11, 0x24, 6, MJPG, sizes, 1, 1, 0, 0, 0, 0);
    for (int i = 0; i < FORMATS; i++) {
        if (formats[i].encoding != encoding) continue;
        uint32_t size = formats[i].width * formats[i].height * 2;
        BYTES(34, 0x24, encoding == YUY2 ? 5 : 7, formats[i].number, 0, TWO(formats[i].width), TWO(formats[i].height));
        BYTES(FOUR(size * 8 * 15), FOUR(size * 8 * 30), FOUR(size), FOUR(intervals[0]), 2, FOUR(intervals[0]), FOUR(intervals[1]));
    }
    BYTES(6, 0x24, 13, 1, 1, 4);  // colour matching
}

static void describe(void) {
    BYTES(9, 2, 0, 0, 2, 1, 0, 0x80, 250);
    BYTES(8, 11, 0, 2, 0x0e, 3, 0, 2);                                          // both interfaces are one function
    BYTES(9, 4, 0, 0, 0, 0x0e, 1, 0, 2);                                        // video control
    BYTES(13, 0x24, 1, 0, 1, TWO(13 + 18 + 9), FOUR(48000000), 1, 1);
    BYTES(18, 0x24, 2, 1, TWO(0x0201), 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0);     // the camera
    BYTES(9, 0x24, 3, 3, TWO(0x0101), 0, 1, 0);                                 // what leaves by USB
    BYTES(9, 4, 1, 0, 1, 0x0e, 2, 0, 0);                                        // video streaming
    int header = configured;
    BYTES(15, 0x24, 1, 2, 0, 0, 0x81, 0, 3, 0, 0, 0, 1, 0, 0);
    describe_formats(YUY2);
    describe_formats(MJPG);
    int length = configured - header;
    configuration[header + 4] = length & 255, configuration[header + 5] = length >> 8;
    BYTES(7, 5, 0x81, 2, TWO(512), 0);                                          // one bulk endpoint
    configuration[2] = configured & 255, configuration[3] = configured >> 8;
}

static int describe_string(int index, uint8_t *answer) {
    const char *text[] = {0, "mien", "Test webcam", serial};
    int length = 2;
    if (index == 0)
        answer[length++] = 9, answer[length++] = 4;  // English
    else if (index <= 3)
        for (const char *c = text[index]; *c; c++) answer[length++] = *c, answer[length++] = 0;
    else
        return -1;
    answer[0] = length, answer[1] = 3;
    return length;
}

// Requests ---------------------------------------------------------------------------------------------------------------

static int format_of(const uint8_t *control) {
    for (int i = 0; i < FORMATS; i++)
        if (formats[i].encoding == control[2] && formats[i].number == control[3]) return i;
    return 0;
}

// Changes what the driver asked for to what there is.
static void negotiate(uint8_t *control) {
    int chosen = format_of(control);
    control[2] = formats[chosen].encoding, control[3] = formats[chosen].number;
    set32(control + 4, get32(control + 4) > intervals[0] ? intervals[1] : intervals[0]);
    set32(control + 18, formats[chosen].width * formats[chosen].height * 2);
    set32(control + 22, PAYLOAD);
}

// A UVC request to the probe or the commit control. Gives the length of the answer, or -1.
static int video_request(int request, int selector, const uint8_t *data, int length, uint8_t *answer) {
    uint8_t *control = selector == 1 ? probe : commit;
    switch (request) {
    case 0x01:  // SET_CUR
        memcpy(control, data, length < 26 ? length : 26);
        negotiate(control);
        if (selector == 2) format = format_of(control), streaming = 1;
        return 0;
    case 0x81: memcpy(answer, control, 26); return 26;  // GET_CUR
    case 0x82: case 0x83:                               // GET_MIN, GET_MAX
        memcpy(answer, probe, 26);
        negotiate(answer);
        return 26;
    case 0x87: memset(answer, 0, 26), answer[2] = answer[3] = 1; negotiate(answer); return 26;  // GET_DEF
    case 0x85: answer[0] = 26, answer[1] = 0; return 2;  // GET_LEN
    case 0x86: answer[0] = 3; return 1;                  // GET_INFO
    }
    return -1;
}

// A request to endpoint 0. Gives the length of the answer, or -1 to refuse it.
static int control_request(const uint8_t *setup, const uint8_t *data, int length, uint8_t *answer) {
    int type = setup[0], request = setup[1], kind = setup[3], index = setup[2];
    if (type == 0x80 && request == 6) {  // GET_DESCRIPTOR
        if (kind == 3) return describe_string(index, answer);
        if (kind != 1 && kind != 2) return -1;
        int size = kind == 1 ? (int)sizeof device : configured;
        memcpy(answer, kind == 1 ? device : configuration, size);
        return size;
    }
    if ((type & 0xe0) == 0x80 && request == 0) return answer[0] = answer[1] = 0, 2;  // GET_STATUS
    if (type == 2 && request == 1) return streaming = 0;  // CLEAR_FEATURE of the endpoint: uvcvideo stops the stream so
    if (type <= 1 && (request == 1 || request == 3 || request == 9 || request == 11)) return 0;
    if ((type & 0x7f) == 0x21 && setup[4] == 1 && (kind == 1 || kind == 2))
        return video_request(request, kind, data, length, answer);
    return -1;
}

// USB/IP -----------------------------------------------------------------------------------------------------------------

enum { SUBMIT = 1, UNLINK = 2, SUBMITTED = 3, UNLINKED = 4 };

struct message {  // every number in network order
    uint32_t kind, sequence, device, inwards, endpoint;
    union {
        struct { uint32_t flags, length, start, packets, interval; } submit;
        struct { uint32_t status, length, start, packets, errors; } submitted;
        struct { uint32_t sequence, unused[4]; } unlink;
    };
    uint8_t setup[8];
};
_Static_assert(sizeof(struct message) == 48, "the header of USB/IP");

static void unplug(void) {
    if (sock < 0) return;
    int detach = open("/sys/devices/platform/vhci_hcd.0/detach", O_WRONLY);
    // Refused if the kernel has let go by itself.
    if (detach >= 0 && write(detach, port, strlen(port)) < 0) perror("detach");
    close(detach);
    close(sock);
    sock = -1, streaming = frozen = pendings = 0;
}

static void plug(void) {
    int ends[2], size = 1 << 20;
    if (sock >= 0) return;
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends)) fail("socketpair");
    setsockopt(ends[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    int attach = open("/sys/devices/platform/vhci_hcd.0/attach", O_WRONLY);
    if (attach < 0) fail("attach (modprobe vhci-hcd)");
    char text[64];
    // Port, socket, an id of the device, speed 3: USB 2.
    int length = snprintf(text, sizeof text, "%s %d %d 3", port, ends[1], 0x10002 + atoi(port));
    // The kernel frees a port some time after the detaching.
    for (int tries = 0; write(attach, text, length) < 0; tries++) {
        if (tries == 500) fail("attach");
        usleep(10000);
    }
    close(attach);
    close(ends[1]);
    sock = ends[0];
}

static int receive(void *to, size_t length) {
    for (size_t done = 0; done < length;) {
        ssize_t count = read(sock, (char *)to + done, length - done);
        if (count == 0 || (count < 0 && errno != EINTR)) return 0;
        if (count > 0) done += count;
    }
    return 1;
}

static void send_all(const void *from, size_t length) {
    for (size_t done = 0; done < length;) {
        ssize_t count = write(sock, (const char *)from + done, length - done);
        if (count < 0 && errno != EINTR) return;  // the next read says that it is gone
        if (count > 0) done += count;
    }
}

static void answer(uint32_t sequence, int status, const void *data, int length, int inwards) {
    struct message header = {.kind = htonl(SUBMITTED), .sequence = htonl(sequence)};
    header.submitted.status = htonl(status);
    header.submitted.length = htonl(length);
    send_all(&header, sizeof header);
    if (inwards) send_all(data, length);
}

// Takes one message of the kernel.
static void serve(void) {
    static uint8_t data[65536], reply[1024];
    struct message message;
    if (!receive(&message, sizeof message)) return unplug();
    uint32_t sequence = ntohl(message.sequence);
    if (ntohl(message.kind) == UNLINK) {
        int found = 0;
        for (int i = 0; i < pendings && !found; i++)
            if (pending[i].sequence == ntohl(message.unlink.sequence)) {
                memmove(pending + i, pending + i + 1, (--pendings - i) * sizeof *pending);
                found = 1;
            }
        struct message header = {.kind = htonl(UNLINKED), .sequence = htonl(sequence)};
        header.submitted.status = htonl(found ? -ECONNRESET : 0);
        return send_all(&header, sizeof header);
    }
    uint32_t length = ntohl(message.submit.length);
    int inwards = ntohl(message.inwards), endpoint = ntohl(message.endpoint);
    if (!inwards && (length > sizeof data || !receive(data, length))) return unplug();
    if (endpoint == 0) {
        int size = control_request(message.setup, data, inwards ? 0 : length, reply);
        int wanted = message.setup[6] | message.setup[7] << 8;
        if (size < 0) answer(sequence, -EPIPE, 0, 0, inwards);
        else answer(sequence, 0, reply, inwards ? (size < wanted ? size : wanted) : (int)length, inwards);
    } else if (endpoint == 1 && inwards && pendings < MOST_PENDING) {
        pending[pendings].sequence = sequence;
        pending[pendings++].length = length;
    } else {
        answer(sequence, -EPIPE, 0, 0, inwards);
    }
}

// Pictures ---------------------------------------------------------------------------------------------------------------

static void show(const char *name) {
    for (int i = 0; i < FORMATS; i++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%s-%s", folder, name, formats[i].file);
        FILE *file = fopen(path, "rb");
        if (!file) fail(path);
        if (!pictures[i].bytes) pictures[i].bytes = malloc(PICTURE);
        pictures[i].length = fread(pictures[i].bytes, 1, PICTURE, file);
        fclose(file);
    }
}

// The bytes of the next picture in the chosen format, damaged as wanted.
static const uint8_t *next_picture(size_t *length) {
    static uint8_t noise[15000], zeros[15000];
    static int turn;
    int chosen = format;
    turn++;
    if (formats[format].encoding == MJPG && damage == SIZE) chosen = formats[format].number == 1 ? 2 : 1;
    *length = pictures[chosen].length;
    if (formats[format].encoding == MJPG && (damage == GARBAGE || damage == ZEROS)) {
        for (size_t i = 0; i < sizeof noise; i++) noise[i] = rand() >> 8;
        *length = sizeof noise;
        return damage == ZEROS ? zeros : noise;
    }
    if (damage == CUT || (damage == SOME && turn % 2)) *length /= 3;
    if (damage == STUB) *length = 100;
    return pictures[chosen].bytes;
}

// Sends a piece of a picture if it is time for one. Gives how many milliseconds may pass until the next.
static int stream(void) {
    static double due;
    static const uint8_t *picture;
    static size_t length, sent;
    static int parity;
    if (!streaming || sock < 0) return picture = 0, due = 0, 1000;
    if (!pendings || frozen) return 1000;
    double time = now();
    if (!picture) {
        if (due == 0 || time - due > 0.5) due = time;
        if (time < due) return (due - time) * 1000 + 1;
        picture = next_picture(&length), sent = 0;
    }
    uint8_t payload[PAYLOAD];
    size_t room = (pending[0].length < PAYLOAD ? pending[0].length : PAYLOAD) - 2;
    size_t count = length - sent < room ? length - sent : room;
    int last = sent + count == length;
    payload[0] = 2, payload[1] = 0x80 | parity | (last ? 2 : 0);
    memcpy(payload + 2, picture + sent, count);
    answer(pending[0].sequence, 0, payload, count + 2, 1);
    memmove(pending, pending + 1, --pendings * sizeof *pending);
    sent += count;
    if (last) picture = 0, parity ^= 1, due += get32(commit + 4) * 1e-7;
    return 0;
}

// Commands ---------------------------------------------------------------------------------------------------------------

static void command(char *line) {
    line[strcspn(line, "\n")] = 0;
    char *argument = strchr(line, ' ');
    if (argument) *argument++ = 0;
    if (!strcmp(line, "plug")) return plug();
    if (!strcmp(line, "unplug")) return unplug();
    if (!strcmp(line, "freeze") || !strcmp(line, "thaw")) {
        frozen = *line == 'f';
        return;
    }
    if (!strcmp(line, "show") && argument) return show(argument);
    if (!strcmp(line, "damage") && argument)
        for (int i = 0; i <= SOME; i++)
            if (!strcmp(argument, damages[i])) {
                damage = i;
                return;
            }
    fprintf(stderr, "uvccam: unknown command: %s %s\n", line, argument ? argument : "");
}

int main(int count, char **arguments) {
    if (count != 4) return fprintf(stderr, "usage: uvccam FOLDER PORT SERIAL\n"), 2;
    folder = arguments[1], port = arguments[2], serial = arguments[3];
    signal(SIGPIPE, SIG_IGN);
    describe();
    probe[2] = probe[3] = 1;
    negotiate(probe);
    memcpy(commit, probe, sizeof commit);
    for (;;) {
        struct pollfd waits[2] = {{.fd = STDIN_FILENO, .events = POLLIN}, {.fd = sock, .events = POLLIN}};
        if (poll(waits, 2, stream()) < 0 && errno != EINTR) fail("poll");
        if (waits[1].revents) serve();
        if (waits[0].revents) {
            char line[256];
            size_t length = 0;
            while (length < sizeof line - 1 && read(STDIN_FILENO, line + length, 1) == 1 && line[length++] != '\n') {}
            line[length] = 0;
            if (!length) return unplug(), 0;
            command(line);
        }
    }
}
