/* What the load generator's parts share.
 *
 *   load.c        the scenarios: who sends when, the measured window, the report
 *   connection.c  one WebSocket connection over a non-blocking socket: handshake, frames in, frames out
 *   dialects.c    how each kind of server is spoken to: URL, logging in, what a message looks like on its way
 *   wamp.c        the same for WAMP
 *   check.c       a message that came: is it the very next one of its room, whole, and meant for this member?
 *   measure.c     durations, CPU time
 *
 * One thread, one epoll. Nothing is sampled: every frame is read and checked.
 */
#ifndef MERCURY_LOAD_H
#define MERCURY_LOAD_H

#include <stddef.h>
#include <stdint.h>

enum state { UNUSED, CONNECTING, HANDSHAKE, LOGGING_IN, READY, CLOSED };

/* A growing piece of memory. */
struct bytes {
    char *data;
    size_t size, room;
};

/* One member's connection to its only room. */
struct connection {
    int fd, index, port;
    int hampered;             /* it takes little or nothing, through small buffers */
    enum state state;
    char *token, *member, *room;
    uint64_t started;         /* when it began to connect, in ns */
    struct bytes in, out;     /* a frame that has come in part; what the socket did not take yet */
    int64_t seq;              /* the room's last seq seen here; -1: none yet */
    uint32_t sent;            /* how many messages it has sent */
    uint32_t own, others;     /* the number of the last message that came back, and of the last one of somebody else */
    char event[32];           /* WAMP: how its subscription's events begin */
};

/* How a kind of server is spoken to. */
struct dialect {
    const char *name;         /* as --protocol has it */
    const char *path;         /* the URL's; its two %s are the token, which is the room where there are none, and the member */
    const char *subprotocol;  /* to be agreed upon; NULL: none */
    int acknowledges;         /* each message is answered to its sender */
    int numbers;              /* each delivery names its room and carries its seq */
    const char *text;         /* what stands in a delivery before the text, which begins with ~T */
    const char *end;          /* what follows the text in a message that is sent */
    /* A frame to send, up to the text; the answer is its size. */
    int (*begin)(const struct connection *c, char *frame, size_t room);
    /* The handshake is done. */
    void (*welcomed)(struct connection *c);
    /* A whole text frame came. */
    void (*frame)(struct connection *c, const char *frame, size_t size, uint64_t now);
};

/* What has been counted since the start. A window's figures are the difference of two of these. */
struct tally {
    uint64_t sent, deliveries, from_others, acknowledged, other_events;
    uint64_t frames, reads, bytes, pings;
    /* violations: a run with any of these has failed */
    uint64_t gaps, duplicates, damaged, refused, closed;
};

/* Durations in ns, 128 steps for each power of two: quantiles are exact to 1%. */
struct histogram {
    uint64_t counts[64 << 7];
    uint64_t total, highest;
};

extern const struct dialect *dialect;
extern struct tally tally;
extern size_t text_bytes;

void fail(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

/* load.c: a message came, from somebody else or back to its sender; a connection is logged in and up to date. */
void message_came(struct connection *c, int from_other, uint64_t sent_at, uint64_t now);
void connection_ready(struct connection *c);

/* connection.c */
void connections_open(int epoll);
void connection_start(struct connection *c);
void connection_event(struct connection *c, uint32_t events);
void connection_send_text(struct connection *c, const char *text, size_t size);
void connection_close(struct connection *c, const char *why);
void connection_pause(struct connection *c, int paused);
void connection_sip(struct connection *c, size_t most);

/* dialects.c, wamp.c */
const struct dialect *dialect_named(const char *name);
int begins_with(const char *frame, size_t size, const char *start);
void wamp_hello(struct connection *c);
int wamp_begin(const struct connection *c, char *frame, size_t room);
void wamp_frame(struct connection *c, const char *frame, size_t size, uint64_t now);
void router_frame(struct connection *c, const char *frame, size_t size, uint64_t now);

/* check.c */
int check_is_message(const char *frame, size_t size);
void check_message(struct connection *c, const char *frame, size_t size, uint64_t now);
int check_seq(struct connection *c, const char *frame, size_t size);
int64_t check_caught_up(const char *frame, size_t size);
void check_complain(const struct connection *c, const char *what, const char *frame, size_t size);
void check_refused(const struct connection *c, const char *what, const char *frame, size_t size);
void say(struct connection *c, uint64_t at);

/* measure.c */
uint64_t now_ns(void);
double cpu_of(int pid);
double cpu_own(void);
double cpu_all(void);
void histogram_add(struct histogram *h, uint64_t ns);
double histogram_ms(const struct histogram *h, double quantile);

#endif
