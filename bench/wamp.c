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

/* How a PUBLISH begins; the request's id is the message's number. */
int wamp_begin(const struct connection *c, char *frame, size_t room)
{
    return snprintf(frame, room, "[16,%u,{\"acknowledge\":true,\"exclude_me\":false},\"" TOPIC "%s\",[\"", c->sent,
                    c->room);
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
}

static void other_event(struct connection *c, const char *frame, size_t size)
{
    tally.other_events++;
    if (has(frame, size, "\"type\":\"joined\"") || has(frame, size, "\"type\":\"left\""))
        check_seq(c, frame, size);
    else if (has(frame, size, "\"type\":\"caught_up\"")) {
        c->seq = check_caught_up(frame, size);
        if (c->state == LOGGING_IN)
            connection_ready(c);
    } else
        check_refused(c, "not expected", frame, size);
}

void wamp_frame(struct connection *c, const char *frame, size_t size, uint64_t now)
{
    if (size < 2 || frame[size - 1] != ']') {
        check_refused(c, "not a whole JSON text", frame, size);
    } else if (*c->event && begins_with(frame, size, c->event)) {
        if (check_is_message(frame, size))
            check_message(c, frame, size, now);
        else
            other_event(c, frame, size);
    } else if (begins_with(frame, size, "[17,")) {
        tally.acknowledged++;
    } else if (begins_with(frame, size, "[2,") && c->state == LOGGING_IN) {
        welcomed(c);
    } else if (begins_with(frame, size, "[33,1,") && !*c->event) {
        subscribed(c, frame, size);
    } else {
        check_refused(c, "not expected", frame, size); /* an ERROR, an ABORT, an event of another subscription */
    }
}

/* A router has no log to catch up with: who has subscribed is ready. */
void router_frame(struct connection *c, const char *frame, size_t size, uint64_t now)
{
    wamp_frame(c, frame, size, now);
    if (*c->event && c->state == LOGGING_IN)
        connection_ready(c);
}
