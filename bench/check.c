/* What a message says. It must be whole, of this member's room, with the very next seq, and with the very next
 * number of its sender; anything else is counted as a violation and shown. The text carries what is needed for that:
 *
 *   ~T <16 hex digits: CLOCK_MONOTONIC in ns> <8: number, 1, 2, 3 ... for each sender> <4: sender's index> <filler>
 *
 * without the spaces. What is not a message is looked at where its dialect stands: dialects.c, wamp.c.
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

/* A frame that does not belong into a run: an error, a farewell, or none that a server should send. */
void check_refused(const struct connection *c, const char *what, const char *frame, size_t size)
{
    tally.refused++;
    check_complain(c, what, frame, size);
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
    c->sent++;
    char *text = frame + dialect->begin(c, frame, 1024);
    memcpy(text, "~T", 2);
    write_hex(text + 2, at, 16);
    write_hex(text + 18, c->sent, 8);
    write_hex(text + 26, (uint64_t)c->index, 4);
    memcpy(text + STAMP, filler(), text_bytes - STAMP);
    strcpy(text + text_bytes, dialect->end);
    tally.sent++;
    connection_send_text(c, frame, (size_t)(text - frame) + text_bytes + strlen(dialect->end));
}

/* A key of a frame. A run's frames look alike, so the place where it stood last is tried first. */
struct key {
    const char *name;
    size_t size, last;
};
static struct key SEQ = {"\"seq\":", 6, 0}, RID = {"\"rid\":\"", 7, 0}, TEXT = {"~T", 2, 0};

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

/* The dialect's text in the frame, from its ~T on, or NULL. */
static const char *find_text(const char *frame, size_t size)
{
    size_t before = strlen(dialect->text);
    const char *text = find(&TEXT, frame, size);
    return text && (size_t)(text - 2 - frame) >= before && !memcmp(text - 2 - before, dialect->text, before) ? text - 2 : NULL;
}

/* Whether an event, of several kinds, is a message of this program's. */
int check_is_message(const char *frame, size_t size)
{
    return find_text(frame, size) != NULL;
}

void check_message(struct connection *c, const char *frame, size_t size, uint64_t now)
{
    const char *text = find_text(frame, size);
    if (!text || (size_t)(frame + size - text) < text_bytes + strlen(dialect->end)
        || memcmp(text + STAMP, filler(), text_bytes - STAMP) || (*dialect->end && text[text_bytes] != *dialect->end)
        || (dialect->numbers && (!of_own_room(c, frame, size) || !check_seq(c, frame, size)))) {
        tally.damaged++;
        check_complain(c, "not a whole message of this room", frame, size);
        return;
    }
    uint32_t number = (uint32_t)read_hex(text + 18, 8);
    int from_other = (int)read_hex(text + 26, 4) != c->index;
    uint32_t *last = from_other ? &c->others : &c->own;
    if (number != *last + 1) {
        *(number <= *last ? &tally.duplicates : &tally.gaps) += 1;
        check_complain(c, "not the sender's next message", frame, size);
    }
    *last = number;
    tally.deliveries++;
    tally.from_others += (uint64_t)from_other;
    message_came(c, from_other, read_hex(text + 2, 16), now);
}
