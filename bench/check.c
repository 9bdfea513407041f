/* What a frame says. A message must be whole, of this member's room, with the very next seq, and with the very next
 * number of its sender; anything else is counted as a violation and shown. The text carries what is needed for that:
 *
 *   ~T <16 hex digits: CLOCK_MONOTONIC in ns> <8: number, 1, 2, 3 ... for each sender> <4: sender's index> <filler>
 *
 * without the spaces. In mercury.v2.json other events come too: those with a seq must fit into the same order. What is
 * not a message in WAMP is looked at in wamp.c.
 */
#define _GNU_SOURCE
#include "load.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STAMP 30 /* bytes of the text before the filler */
#define COMPLAINTS 5

static const char FILLER[] = " the quick brown fox jumps over the lazy dog, and so on";

void check_complain(const struct connection *c, const char *what, const char *frame, size_t size)
{
    static int shown;
    if (shown++ < COMPLAINTS)
        fprintf(stderr, "load: member %s: %s: %.*s\n", c->member, what, (int)(size > 300 ? 300 : size), frame);
}

static uint64_t read_hex(const char *p, int digits)
{
    uint64_t value = 0;
    for (int i = 0; i < digits; i++)
        value = value << 4 | (uint64_t)(p[i] <= '9' ? p[i] - '0' : p[i] - 'a' + 10);
    return value;
}

static void write_hex(char *p, uint64_t value, int digits)
{
    for (int i = digits - 1; i >= 0; i--, value >>= 4)
        p[i] = "0123456789abcdef"[value & 15];
}

/* The filler of every text, text_bytes - STAMP bytes. */
static const char *filler(void)
{
    static char *made;
    if (!made) {
        made = malloc(text_bytes);
        for (size_t i = 0; i + STAMP < text_bytes; i++)
            made[i] = FILLER[i % (sizeof FILLER - 1)];
    }
    return made;
}

/* Send this connection's next message. Its delay is counted from `at`. */
void say(struct connection *c, uint64_t at)
{
    static char frame[1 << 17];
    const char *head = protocol == V2 ? "{\"type\":\"send\"" : "{\"type\":1", *tail = protocol < WAMP ? "\"}" : "\"]]";
    c->sent++;
    int n = protocol < WAMP ? snprintf(frame, 1024, "%s,\"rid\":\"%s\",\"text\":\"~T", head, c->room)
                            : wamp_say_start(c, frame, 1024);
    write_hex(frame + n, at, 16);
    write_hex(frame + n + 16, c->sent, 8);
    write_hex(frame + n + 24, (uint64_t)c->index, 4);
    memcpy(frame + n + 28, filler(), text_bytes - STAMP);
    memcpy(frame + n + text_bytes - 2, tail, strlen(tail));
    tally.sent++;
    connection_send_text(c, frame, (size_t)n + text_bytes - 2 + strlen(tail));
}

/* A key of a frame. A run's frames look alike, so the place where it stood last is tried first. */
struct key {
    const char *name;
    size_t size, last;
};
static struct key SEQ = {"\"seq\":", 6, 0}, RID = {"\"rid\":\"", 7, 0};
static struct key TEXT = {"\"text\":\"~T", 10, 0}, ARGUMENT = {"[\"~T", 4, 0};

/* What follows the key in the frame, or NULL. */
static const char *find(struct key *key, const char *frame, size_t size)
{
    if (key->last + key->size <= size && !memcmp(frame + key->last, key->name, key->size))
        return frame + key->last + key->size;
    const char *at = memmem(frame, size, key->name, key->size);
    if (!at)
        return NULL;
    key->last = (size_t)(at - frame);
    return at + key->size;
}

/* The seq must be the next of the room. Frames end in '}' or ']', so reading digits stays within the frame. */
int check_seq(struct connection *c, const char *frame, size_t size)
{
    const char *digit = find(&SEQ, frame, size);
    if (!digit)
        return 0;
    int64_t seq = 0;
    for (; *digit >= '0' && *digit <= '9'; digit++)
        seq = seq * 10 + (*digit - '0');
    if (c->seq >= 0 && seq != c->seq + 1) {
        *(seq <= c->seq ? &tally.duplicates : &tally.gaps) += 1;
        check_complain(c, seq <= c->seq ? "came twice, or out of order" : "a gap before", frame, size);
    }
    if (seq > c->seq)
        c->seq = seq;
    return 1;
}

/* The seq of a caught_up. */
int64_t check_caught_up(const char *frame, size_t size)
{
    const char *seq = find(&SEQ, frame, size);
    return seq ? atoll(seq) : -1;
}

static int of_own_room(const struct connection *c, const char *frame, size_t size)
{
    const char *rid = find(&RID, frame, size);
    size_t length = strlen(c->room);
    return rid && (size_t)(frame + size - rid) > length && !memcmp(rid, c->room, length) && rid[length] == '"';
}

/* Whether a WAMP event is a message: its first argument is a text of this program's. */
int check_is_message(const char *frame, size_t size)
{
    return find(&ARGUMENT, frame, size) != NULL;
}

void check_message(struct connection *c, const char *frame, size_t size, uint64_t now)
{
    const char *text = find(protocol < WAMP ? &TEXT : &ARGUMENT, frame, size);
    size_t rest = text_bytes - STAMP;
    if (!text || (size_t)(frame + size - text) < 28 + rest + 2 || memcmp(text + 28, filler(), rest)
        || text[28 + rest] != '"'
        || (protocol != ROUTER && (!of_own_room(c, frame, size) || !check_seq(c, frame, size)))) {
        tally.damaged++;
        check_complain(c, "not a whole message of this room", frame, size);
        return;
    }
    uint32_t number = (uint32_t)read_hex(text + 16, 8);
    int from_other = (int)read_hex(text + 24, 4) != c->index;
    uint32_t *last = from_other ? &c->others : &c->own;
    if (number != *last + 1) {
        *(number <= *last ? &tally.duplicates : &tally.gaps) += 1;
        check_complain(c, "not the sender's next message", frame, size);
    }
    *last = number;
    tally.deliveries++;
    tally.from_others += (uint64_t)from_other;
    message_came(c, from_other, read_hex(text, 16), now);
}

static int is(const char *frame, size_t size, const char *type)
{
    char start[64];
    int n = snprintf(start, sizeof start, "{\"type\":\"%s\"", type);
    return size >= (size_t)n && !memcmp(frame, start, (size_t)n);
}

static void check_v2_event(struct connection *c, const char *frame, size_t size)
{
    tally.other_events++;
    if (is(frame, size, "ok"))
        tally.acknowledged++;
    else if (is(frame, size, "joined") || is(frame, size, "left"))
        check_seq(c, frame, size);
    else if (is(frame, size, "caught_up")) {
        c->seq = check_caught_up(frame, size);
        if (c->state == LOGGING_IN)
            connection_ready(c);
    } else if (!is(frame, size, "hello") && !is(frame, size, "presence")) {
        tally.refused++; /* an error, a bye, a reset: none of them belongs here */
        check_complain(c, "not expected", frame, size);
    }
}

void check_text_frame(struct connection *c, const char *frame, size_t size, uint64_t now)
{
    if (size < 2 || frame[size - 1] != (protocol < WAMP ? '}' : ']')) {
        tally.damaged++;
        check_complain(c, "not a whole JSON text", frame, size);
    } else if (protocol >= WAMP) {
        check_wamp_frame(c, frame, size, now);
    } else if (protocol == V2) {
        if (is(frame, size, "message"))
            check_message(c, frame, size, now);
        else
            check_v2_event(c, frame, size);
    } else if (frame[1] == '"' && memcmp(frame, "{\"type\":0", 9)) {
        check_message(c, frame, size, now);
    } else {
        tally.refused++;
        check_complain(c, "refused", frame, size);
    }
}

void histogram_add(struct histogram *h, uint64_t ns)
{
    int power = ns < 128 ? 0 : 63 - __builtin_clzll(ns) - 6;
    uint64_t step = power ? (uint64_t)power << 7 | (ns >> (power - 1) & 127) : ns;
    h->counts[step]++;
    h->total++;
    if (ns > h->highest)
        h->highest = ns;
}

/* The lower bound, in ms, of the step that holds the quantile. */
double histogram_ms(const struct histogram *h, double quantile)
{
    uint64_t wanted = (uint64_t)(quantile * (double)h->total), seen = 0;
    for (uint64_t step = 0; step < 64 << 7; step++) {
        seen += h->counts[step];
        if (seen > wanted) {
            uint64_t power = step >> 7, low = step & 127;
            return (double)(power ? (128 | low) << (power - 1) : low) / 1e6;
        }
    }
    return (double)h->highest / 1e6;
}
