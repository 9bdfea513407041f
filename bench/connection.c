/* One WebSocket connection over a non-blocking socket: handshake, frames in, frames out (RFC 6455).
 *
 * What the socket gives is read into one shared block and looked at in place; only a frame that has come in part is
 * kept until the rest arrives. A ping is answered at once, with its own payload.
 */
#define _GNU_SOURCE
#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define BLOCK (1 << 20)
enum { TEXT = 1, CLOSE = 8, PING = 9, PONG = 10 };

/* The sample key of RFC 6455 section 1.3 and the accept value that belongs to it. */
static const char KEY[] = "dGhlIHNhbXBsZSBub25jZQ==", ACCEPT[] = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
static const char MASK[4] = {0x37, (char)0xfa, 0x21, 0x3d};

static int poll_fd;
static char *block;

void connections_open(int epoll)
{
    poll_fd = epoll;
    block = malloc(BLOCK + 1);
}

static void watch(struct connection *c, int operation, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = c};
    epoll_ctl(poll_fd, operation, c->fd, &event);
}

static void keep(struct bytes *b, const char *data, size_t size)
{
    if (b->size + size > b->room) {
        b->room = (b->size + size) * 2;
        b->data = realloc(b->data, b->room);
    }
    memcpy(b->data + b->size, data, size);
    b->size += size;
}

void connection_close(struct connection *c, const char *why)
{
    if (c->state == CLOSED)
        return;
    tally.closed++;
    check_complain(c, "connection lost", why, strlen(why));
    c->state = CLOSED;
    close(c->fd);
    free(c->in.data);
    free(c->out.data);
    c->in = c->out = (struct bytes){0};
}

void connection_start(struct connection *c)
{
    struct sockaddr_in server = {.sin_family = AF_INET, .sin_port = htons((uint16_t)c->port),
                                 .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1;
    c->started = now_ns();
    c->state = CONNECTING;
    c->seq = -1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0)
        fail("socket: %s (raise ulimit -n)", strerror(errno));
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (c->hampered) { /* as on a network: over the loopback's segments of 64 KiB, kernels would hold megabytes for it */
        setsockopt(c->fd, IPPROTO_TCP, TCP_MAXSEG, &(int){1460}, sizeof(int));
        setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &(int){4096}, sizeof(int));
    }
    watch(c, EPOLL_CTL_ADD, EPOLLOUT);
    if (connect(c->fd, (struct sockaddr *)&server, sizeof server) && errno != EINPROGRESS)
        connection_close(c, strerror(errno));
}

static void transmit(struct connection *c, const char *data, size_t size)
{
    if (!c->out.size) {
        ssize_t taken = send(c->fd, data, size, MSG_NOSIGNAL);
        if (taken == (ssize_t)size)
            return;
        if (taken < 0 && errno != EAGAIN) {
            connection_close(c, strerror(errno));
            return;
        }
        data += taken > 0 ? taken : 0;
        size -= taken > 0 ? (size_t)taken : 0;
        watch(c, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
    }
    keep(&c->out, data, size);
}

static void drain(struct connection *c)
{
    ssize_t taken = send(c->fd, c->out.data, c->out.size, MSG_NOSIGNAL);
    if (taken < 0) {
        if (errno != EAGAIN)
            connection_close(c, strerror(errno));
        return;
    }
    c->out.size -= (size_t)taken;
    memmove(c->out.data, c->out.data + taken, c->out.size);
    if (!c->out.size)
        watch(c, EPOLL_CTL_MOD, EPOLLIN);
}

static void send_frame(struct connection *c, int opcode, const char *payload, size_t size)
{
    static char frame[1 << 17];
    size_t n = 2;
    if (size > 65535)
        fail("a frame of %zu bytes is more than this program sends", size);
    frame[0] = (char)(0x80 | opcode);
    frame[1] = (char)(0x80 | (size < 126 ? size : 126));
    if (size >= 126) {
        frame[n++] = (char)(size >> 8);
        frame[n++] = (char)size;
    }
    memcpy(frame + n, MASK, 4);
    n += 4;
    for (size_t i = 0; i < size; i++)
        frame[n + i] = payload[i] ^ MASK[i & 3];
    transmit(c, frame, n + size);
}

void connection_send_text(struct connection *c, const char *text, size_t size)
{
    if (c->state == READY || c->state == LOGGING_IN)
        send_frame(c, TEXT, text, size);
}

static void send_handshake(struct connection *c)
{
    const char *offered = dialect->subprotocol;
    char path[1024], request[2048];
    snprintf(path, sizeof path, dialect->path, c->token, c->member);
    int n = snprintf(request, sizeof request,
                     "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                     "Sec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\n%s%s%s\r\n",
                     path, c->port, KEY,
                     offered ? "Sec-WebSocket-Protocol: " : "", offered ? offered : "", offered ? "\r\n" : "");
    c->state = HANDSHAKE;
    watch(c, EPOLL_CTL_MOD, EPOLLIN);
    transmit(c, request, (size_t)n);
}

/* The bytes of the server's answer to the handshake, 0 if it has not all come yet or was not what it should be. */
static size_t check_handshake(struct connection *c, char *data, size_t size)
{
    char *end = memmem(data, size, "\r\n\r\n", 4);
    if (!end)
        return 0;
    *end = 0;
    const char *agreed = strcasestr(data, "sec-websocket-protocol: ");
    if (strncmp(data, "HTTP/1.1 101 ", 13) || !strstr(data, ACCEPT)
        || (dialect->subprotocol && !(agreed && strstr(agreed, dialect->subprotocol)))) {
        connection_close(c, data);
        return 0;
    }
    c->state = LOGGING_IN;
    dialect->welcomed(c);
    return (size_t)(end + 4 - data);
}

static void take_frame(struct connection *c, int first_byte, const char *payload, size_t size, uint64_t now)
{
    char why[160];
    tally.frames++;
    switch (first_byte) {
    case 0x80 | TEXT:
        dialect->frame(c, payload, size, now);
        break;
    case 0x80 | PING:
        tally.pings++;
        send_frame(c, PONG, payload, size);
        break;
    case 0x80 | CLOSE:
        snprintf(why, sizeof why, "close frame, code %d %.*s", size < 2 ? 1005 : (payload[0] & 255) << 8 | (payload[1] & 255),
                 size < 2 ? 0 : (int)size - 2, payload + 2);
        connection_close(c, why);
        break;
    default:
        tally.damaged++;
        check_complain(c, "a frame that is not whole text, ping or close", payload, size);
    }
}

/* Take all whole frames; the answer is how many bytes they were. */
static size_t take_frames(struct connection *c, const char *data, size_t size, uint64_t now)
{
    const unsigned char *p = (const unsigned char *)data, *end = p + size;
    while (end - p >= 2 && c->state != CLOSED) {
        uint64_t length = p[1];
        size_t head = length == 126 ? 4 : length == 127 ? 10 : 2;
        if (length & 128)
            fail("the server masks its frames (RFC 6455 section 5.1)");
        if ((size_t)(end - p) < head)
            break;
        if (head > 2)
            length = 0;
        for (size_t i = 2; i < head; i++)
            length = length << 8 | p[i];
        if (length > BLOCK / 2)
            fail("a frame of %llu bytes", (unsigned long long)length);
        if ((uint64_t)(end - p) < head + length)
            break;
        take_frame(c, p[0], (const char *)p + head, length, now);
        p += head + length;
    }
    return (size_t)((const char *)p - data);
}

/* Take what has come, so much at the most. */
static void receive(struct connection *c, size_t most)
{
    size_t kept = c->in.size, done = 0;
    ssize_t came = recv(c->fd, block + kept, most < BLOCK - kept ? most : BLOCK - kept, 0);
    if (came <= 0) {
        if (came == 0 || errno != EAGAIN)
            connection_close(c, came == 0 ? "end of file" : strerror(errno));
        return;
    }
    if (kept)
        memcpy(block, c->in.data, kept);
    size_t size = kept + (size_t)came;
    uint64_t now = now_ns();
    tally.reads++;
    tally.bytes += (uint64_t)came;
    if (c->state == HANDSHAKE)
        done = check_handshake(c, block, size);
    if (c->state >= LOGGING_IN && c->state != CLOSED)
        done += take_frames(c, block + done, size - done, now);
    if (c->state == CLOSED)
        return;
    c->in.size = 0;
    if (done < size)
        keep(&c->in, block + done, size - done);
}

void connection_event(struct connection *c, uint32_t events)
{
    if (c->state == CONNECTING) {
        int error = 0;
        socklen_t size = sizeof error;
        getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
        if (error)
            connection_close(c, strerror(error));
        else
            send_handshake(c);
        return;
    }
    if (c->state != CLOSED && c->out.size && events & EPOLLOUT)
        drain(c);
    if (c->state != CLOSED && events & (EPOLLIN | EPOLLHUP | EPOLLERR))
        receive(c, BLOCK);
}

/* Take nothing from now on, or all again. */
void connection_pause(struct connection *c, int paused)
{
    if (c->state != CLOSED)
        watch(c, EPOLL_CTL_MOD, paused ? 0 : EPOLLIN);
}

/* Take a little, if it is there, of a paused connection. */
void connection_sip(struct connection *c, size_t most)
{
    if (c->state != CLOSED)
        receive(c, most);
}
