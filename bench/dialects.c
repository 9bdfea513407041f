/* How each kind of server is spoken to. Messages look alike on their way: JSON with the room, the sender and the text.
 *
 *   seed      Mercury's protocol without a subprotocol. Other servers here that can be programmed speak it as well
 *   v2        mercury.v2.json: other events come too, and those with a seq must fit into the same order
 *   wamp      WAMP as Mercury speaks it; router: any WAMP router that lets everybody into its realm `mercury` (wamp.c)
 *   socketio  Socket.IO 5 over Engine.IO 4, over WebSocket from the start
 *   nchan     what a member sends comes to all as it is. Nothing numbers it
 *   echo      a text goes back as it came: no room, no JSON
 */
#define _GNU_SOURCE
#include "load.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int begins_with(const char *frame, size_t size, const char *start)
{
    size_t length = strlen(start);
    return size >= length && !memcmp(frame, start, length);
}

static int seed_begin(const struct connection *c, char *frame, size_t room)
{
    return snprintf(frame, room, "{\"type\":1,\"rid\":\"%s\",\"text\":\"", c->room);
}

static void seed_frame(struct connection *c, const char *frame, size_t size, uint64_t now)
{
    if (begins_with(frame, size, "{\"") && !begins_with(frame, size, "{\"type\":0") && frame[size - 1] == '}')
        check_message(c, frame, size, now);
    else
        check_refused(c, "refused", frame, size);
}

static int v2_begin(const struct connection *c, char *frame, size_t room)
{
    return snprintf(frame, room, "{\"type\":\"send\",\"rid\":\"%s\",\"text\":\"", c->room);
}

static void v2_event(struct connection *c, const char *frame, size_t size)
{
    tally.other_events++;
    if (begins_with(frame, size, "{\"type\":\"ok\""))
        tally.acknowledged++;
    else if (begins_with(frame, size, "{\"type\":\"joined\"") || begins_with(frame, size, "{\"type\":\"left\""))
        check_seq(c, frame, size);
    else if (begins_with(frame, size, "{\"type\":\"caught_up\"")) {
        c->seq = check_caught_up(frame, size);
        if (c->state == LOGGING_IN)
            connection_ready(c);
    } else if (!begins_with(frame, size, "{\"type\":\"hello\"") && !begins_with(frame, size, "{\"type\":\"presence\""))
        check_refused(c, "not expected", frame, size); /* an error, a bye, a reset: none of them belongs here */
}

static void v2_frame(struct connection *c, const char *frame, size_t size, uint64_t now)
{
    if (size < 2 || frame[size - 1] != '}')
        check_refused(c, "not a whole JSON text", frame, size);
    else if (begins_with(frame, size, "{\"type\":\"message\""))
        check_message(c, frame, size, now);
    else
        v2_event(c, frame, size);
}

static int nchan_begin(const struct connection *c, char *frame, size_t room)
{
    return snprintf(frame, room, "{\"id\":%u,\"mid\":\"%s\",\"rid\":\"%s\",\"ctime\":\"2026-01-01T00:00:00.000000Z\",\"text\":\"",
                    c->sent, c->member, c->room);
}

static int echo_begin(const struct connection *c, char *frame, size_t room)
{
    (void)c, (void)frame, (void)room;
    return 0;
}

static void echo_frame(struct connection *c, const char *frame, size_t size, uint64_t now)
{
    if (size == text_bytes)
        check_message(c, frame, size, now);
    else
        check_refused(c, "not what was sent", frame, size);
}

static int socketio_begin(const struct connection *c, char *frame, size_t room)
{
    return snprintf(frame, room, "42[\"message\",{\"rid\":\"%s\",\"text\":\"", c->room);
}

/* Engine.IO's packets: 0 open, 2 ping, 3 pong, 4 message; in the last one Socket.IO's: 0 connect, 2 event. */
static void socketio_frame(struct connection *c, const char *frame, size_t size, uint64_t now)
{
    if (begins_with(frame, size, "42[\"message\",{") && begins_with(frame + size - 2, 2, "}]")) {
        check_message(c, frame, size, now);
    } else if (size == 1 && *frame == '2') {
        tally.pings++;
        connection_send_text(c, "3", 1);
    } else if (begins_with(frame, size, "0{") && c->state == LOGGING_IN) {
        connection_send_text(c, "40", 2);
    } else if (begins_with(frame, size, "40{") && c->state == LOGGING_IN) {
        connection_ready(c);
    } else
        check_refused(c, "not expected", frame, size);
}

/* The server speaks next. */
static void listen_first(struct connection *c)
{
    (void)c;
}

#define CHAT "/ws/connect?token=%s&member=%s"
#define TEXT "\"text\":\""

static const struct dialect DIALECTS[] = {
    {"seed", CHAT, NULL, 0, 1, TEXT, "\"}", seed_begin, connection_ready, seed_frame},
    {"v2", CHAT, "mercury.v2.json", 1, 1, TEXT, "\"}", v2_begin, listen_first, v2_frame},
    {"wamp", CHAT, "wamp.2.json", 1, 1, "[\"", "\"]]", wamp_begin, wamp_hello, wamp_frame},
    {"router", CHAT, "wamp.2.json", 1, 0, "[\"", "\"]]", wamp_begin, wamp_hello, router_frame},
    {"socketio", "/socket.io/?EIO=4&transport=websocket&token=%s&member=%s", NULL, 0, 1, TEXT, "\"}]", socketio_begin,
     listen_first, socketio_frame},
    {"nchan", "/room?id=%s&member=%s", NULL, 0, 0, TEXT, "\"}", nchan_begin, connection_ready, seed_frame},
    {"echo", CHAT, NULL, 0, 0, "", "", echo_begin, connection_ready, echo_frame},
};

const struct dialect *dialect_named(const char *name)
{
    for (size_t i = 0; i < sizeof DIALECTS / sizeof *DIALECTS; i++)
        if (!strcmp(name, DIALECTS[i].name))
            return &DIALECTS[i];
    fail("--protocol %s: there is none of this name; see the top of bench/dialects.c", name);
}
