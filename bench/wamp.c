/* WAMP in JSON (https://wamp-proto.org): HELLO, SUBSCRIBE to the room's topic, PUBLISH with an acknowledgement, EVENT.
 *
 * Mercury finds the token in the URL; another router lets everybody in. Mercury's events carry rid and seq, which are
 * checked like those of its other protocols. Those of a router have neither: there it is only checked that each comes
 * for the subscription, whole, and that it is its sender's very next one.
 */
#define _GNU_SOURCE
#include "load.h"

#include <stdio.h>
#include <string.h>

#define TOPIC "mercury.room."

static void send_text(struct connection *c, const char *text)
{
    connection_send_text(c, text, strlen(text));
}

void wamp_hello(struct connection *c)
{
    send_text(c, "[1,\"mercury\",{\"roles\":{\"publisher\":{},\"subscriber\":{}},\"authmethods\":[\"anonymous\"]}]");
}

/* How a PUBLISH begins, up to the first two bytes of the text; the request's id is the message's number. */
int wamp_say_start(const struct connection *c, char *frame, size_t room)
{
    return snprintf(frame, room, "[16,%u,{\"acknowledge\":true,\"exclude_me\":false},\"" TOPIC "%s\",[\"~T", c->sent,
                    c->room);
}

static int begins(const char *frame, size_t size, const char *with)
{
    size_t length = strlen(with);
    return size >= length && !memcmp(frame, with, length);
}

static int has(const char *frame, size_t size, const char *what)
{
    return memmem(frame, size, what, strlen(what)) != NULL;
}

static void welcomed(struct connection *c)
{
    char subscribe[256];
    snprintf(subscribe, sizeof subscribe, "[32,1,{},\"" TOPIC "%s\"]", c->room);
    send_text(c, subscribe);
}

static void subscribed(struct connection *c, const char *frame, size_t size)
{
    const char *id = frame + strlen("[33,1,");
    snprintf(c->event, sizeof c->event, "[36,%.*s,", (int)(frame + size - 1 - id), id);
    if (protocol == ROUTER)
        connection_ready(c); /* it has no log to catch up with */
}

static void check_other_event(struct connection *c, const char *frame, size_t size)
{
    tally.other_events++;
    if (has(frame, size, "\"type\":\"joined\"") || has(frame, size, "\"type\":\"left\""))
        check_seq(c, frame, size);
    else if (has(frame, size, "\"type\":\"caught_up\"")) {
        c->seq = check_caught_up(frame, size);
        if (c->state == LOGGING_IN)
            connection_ready(c);
    } else {
        tally.refused++;
        check_complain(c, "not expected", frame, size);
    }
}

void check_wamp_frame(struct connection *c, const char *frame, size_t size, uint64_t now)
{
    if (*c->event && begins(frame, size, c->event)) {
        if (check_is_message(frame, size))
            check_message(c, frame, size, now);
        else
            check_other_event(c, frame, size);
    } else if (begins(frame, size, "[17,")) {
        tally.acknowledged++;
    } else if (begins(frame, size, "[2,") && c->state == LOGGING_IN) {
        welcomed(c);
    } else if (begins(frame, size, "[33,1,") && !*c->event) {
        subscribed(c, frame, size);
    } else {
        tally.refused++; /* an ERROR, an ABORT, an event of another subscription */
        check_complain(c, "not expected", frame, size);
    }
}
