/* The floor: the least that a chat server can do, to show what the machine and the load generator can take.
 *
 *   floor PORT [lose|double|swap|alter|stray|cut]
 *
 * It stores nothing, checks no token (a token is the name of the room to be in), and forgets everybody who leaves. It
 * numbers a room's messages, forms each frame once, joins all frames of a loop turn and gives them to each connection
 * in one system call. The frames are those of the protocol without a subprotocol, as bench/load reads them; a short
 * text that is no message goes back to who sent it. With a fault's name it commits it once, on one member's hundredth
 * delivery: that is how `make bench ARGS="check"` sees that bench/load notices.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define NAME 64
#define ROOMS 65536

struct connection {
    int fd, welcomed, dirty;
    struct room *room;
    char member[NAME];
    char *in, *out;
    size_t in_size, in_room, out_size, out_room;
};

struct room {
    char name[NAME];
    unsigned long seq;
    struct connection **members;
    size_t count, room;
    struct room *next;
};

static const char WELCOME[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                              "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
static struct room *rooms[ROOMS];
static struct connection **dirty;
static size_t dirty_count, dirty_room;
static int epoll;
static const char *fault; /* to be committed; NULL: none */

/* Room for `wanted` items in a growing array. */
static void *grown(void *array, size_t *room, size_t wanted, size_t item)
{
    if (wanted > *room) {
        *room = wanted * 2;
        array = realloc(array, *room * item);
    }
    return array;
}

static struct room *room_of(const char *name, size_t size)
{
    unsigned hash = 5381;
    for (size_t i = 0; i < size; i++)
        hash = hash * 33 ^ (unsigned char)name[i];
    struct room **head = &rooms[hash % ROOMS];
    for (struct room *r = *head; r; r = r->next)
        if (!strncmp(r->name, name, size) && !r->name[size])
            return r;
    struct room *r = calloc(1, sizeof *r);
    memcpy(r->name, name, size < NAME ? size : NAME - 1);
    r->next = *head;
    return *head = r;
}

static void watch(struct connection *c, int operation, unsigned events)
{
    struct epoll_event event = {.events = events, .data.ptr = c};
    epoll_ctl(epoll, operation, c->fd, &event);
}

/* Closed connections stay in memory: events of this loop turn may still name them. */
static void leave(struct connection *c)
{
    struct room *r = c->room;
    for (size_t i = 0; r && i < r->count; i++)
        if (r->members[i] == c)
            r->members[i] = r->members[--r->count];
    close(c->fd);
    c->fd = -1;
}

static void flush(struct connection *c)
{
    ssize_t taken = send(c->fd, c->out, c->out_size, MSG_NOSIGNAL);
    if (taken < 0)
        taken = 0;
    int was_waiting = c->dirty == 2;
    c->out_size -= (size_t)taken;
    memmove(c->out, c->out + taken, c->out_size);
    c->dirty = c->out_size ? 2 : 0;
    if (was_waiting != (c->dirty == 2))
        watch(c, EPOLL_CTL_MOD, EPOLLIN | (c->out_size ? EPOLLOUT : 0));
}

static void queue(struct connection *c, const char *data, size_t size)
{
    c->out = grown(c->out, &c->out_room, c->out_size + size, 1);
    memcpy(c->out + c->out_size, data, size);
    c->out_size += size;
    if (!c->dirty) {
        c->dirty = 1;
        dirty = grown(dirty, &dirty_room, dirty_count + 1, sizeof *dirty);
        dirty[dirty_count++] = c;
    }
}

/* Deliver a frame, but for the fault. */
static void deliver(struct connection *c, char *frame, size_t size)
{
    static unsigned deliveries;
    static struct bytes {
        char data[1024];
        size_t size;
    } held; /* it comes after the next one */
    static struct connection *unlucky;
    if (!fault || (unlucky && c != unlucky)) {
        queue(c, frame, size);
        return;
    }
    unlucky = c;
    int now = ++deliveries == 100;
    if (now && !strcmp(fault, "cut"))
        leave(c);
    if (now && !strcmp(fault, "swap"))
        memcpy(held.data, frame, held.size = size < sizeof held.data ? size : sizeof held.data);
    if (c->fd < 0 || (now && (held.size || !strcmp(fault, "lose"))))
        return;
    char *spoilt = !now ? NULL : !strcmp(fault, "alter") ? frame + size - 8
                 : !strcmp(fault, "stray") ? strchr(memmem(frame, size, "\"rid\":\"", 7), ',') - 2 : NULL;
    if (spoilt)
        *spoilt ^= 1;
    queue(c, frame, size);
    if (spoilt)
        *spoilt ^= 1;
    if (now && !strcmp(fault, "double"))
        queue(c, frame, size);
    if (!now && held.size) {
        queue(c, held.data, held.size);
        held.size = 0;
    }
}

static void message(struct connection *from, char *p, size_t size)
{
    static unsigned long id;
    static char frame[70000];
    char *text = memmem(p, size, "\"text\":\"", 8), *rid = memmem(p, size, "\"rid\":\"", 7);
    if (!text || !rid) { /* no message for a room: an echo is wanted */
        char *echo = p - 2; /* where the mask was */
        echo[0] = (char)0x81;
        echo[1] = (char)size;
        if (size < 126)
            deliver(from, echo, size + 2);
        return;
    }
    text += 8;
    rid += 7;
    struct room *r = room_of(rid, strcspn(rid, "\""));
    int n = snprintf(frame + 4, sizeof frame - 4,
                     "{\"id\":%lu,\"seq\":%lu,\"mid\":\"%s\",\"rid\":\"%s\",\"ctime\":\"2026-01-01T00:00:00.000000Z\","
                     "\"text\":\"%.*s\"}", ++id, ++r->seq, from->member, r->name, (int)strcspn(text, "\""), text);
    char *start = n < 126 ? frame + 2 : frame;
    start[0] = (char)0x81;
    start[1] = (char)(n < 126 ? n : 126);
    if (n >= 126) {
        start[2] = (char)(n >> 8);
        start[3] = (char)n;
    }
    for (size_t i = 0; i < r->count; i++)
        deliver(r->members[i], start, (size_t)(frame + 4 + n - start));
}

/* GET /ws/connect?token=ROOM&member=NAME */
static size_t welcome(struct connection *c)
{
    char *end = memmem(c->in, c->in_size, "\r\n\r\n", 4);
    if (!end)
        return 0;
    *end = 0;
    char *token = strstr(c->in, "token="), *member = strstr(c->in, "member=");
    if (!token || !member) {
        leave(c);
        return 0;
    }
    c->room = room_of(token + 6, strcspn(token + 6, "& "));
    snprintf(c->member, NAME, "%.*s", (int)strcspn(member + 7, "& "), member + 7);
    c->room->members = grown(c->room->members, &c->room->room, c->room->count + 1, sizeof c);
    c->room->members[c->room->count++] = c;
    c->welcomed = 1;
    send(c->fd, WELCOME, sizeof WELCOME - 1, MSG_NOSIGNAL);
    return (size_t)(end + 4 - c->in);
}

static void receive(struct connection *c)
{
    c->in = grown(c->in, &c->in_room, c->in_size + 4096, 1);
    ssize_t came = recv(c->fd, c->in + c->in_size, c->in_room - c->in_size, 0);
    if (came <= 0) {
        if (came == 0 || errno != EAGAIN)
            leave(c);
        return;
    }
    c->in_size += (size_t)came;
    size_t done = c->welcomed ? 0 : welcome(c);
    while (c->welcomed && c->fd >= 0 && c->in_size - done >= 8) {
        unsigned char *p = (unsigned char *)c->in + done;
        size_t size = p[1] & 127, head = size == 126 ? 8 : 6;
        if (size == 126)
            size = (size_t)p[2] << 8 | p[3];
        if (c->in_size - done < head + size)
            break;
        for (size_t i = 0; i < size; i++)
            p[head + i] ^= p[head - 4 + (i & 3)];
        if ((p[0] & 15) == 8)
            leave(c);
        else if ((p[0] & 15) == 1)
            message(c, (char *)p + head, size);
        done += head + size;
    }
    c->in_size -= done;
    memmove(c->in, c->in + done, c->in_size);
}

static void accept_all(int listener)
{
    int fd, one = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        struct connection *c = calloc(1, sizeof *c);
        c->fd = fd;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        watch(c, EPOLL_CTL_ADD, EPOLLIN);
    }
}

int main(int argc, char **argv)
{
    static struct epoll_event events[512], listening = {.events = EPOLLIN};
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(argc > 1 ? (unsigned short)atoi(argv[1]) : 0),
                               .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    fault = argc > 2 ? argv[2] : NULL;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&here, sizeof here) || listen(listener, 4096)) {
        perror("floor: bind");
        return 1;
    }
    epoll = epoll_create1(EPOLL_CLOEXEC);
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &listening);
    for (;;) {
        int n = epoll_wait(epoll, events, 512, -1);
        for (int i = 0; i < n; i++) {
            struct connection *c = events[i].data.ptr;
            if (!c)
                accept_all(listener);
            else if (c->fd >= 0 && events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
                receive(c);
            if (c && c->fd >= 0 && events[i].events & EPOLLOUT && c->out_size)
                flush(c);
        }
        for (size_t i = 0; i < dirty_count; i++)
            if (dirty[i]->fd >= 0)
                flush(dirty[i]);
        dirty_count = 0;
    }
}
