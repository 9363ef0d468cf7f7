// The normative statements of MQTT 5.0 and 3.1.1, by their ids, in our own words: what a server must do, and whether
// this one does. Titles of tests begin with the ids, `[MQTT-…]` of 5.0 and `[MQTT311-…]` of 3.1.1; that each statement
// which holds has one, and that no title names one that is not here, is checked by statements.test.ts.

export interface Statement {
  readonly id: string
  readonly says: string
  /** `holds`, or why it does not, or does not concern us. */
  readonly state: 'holds' | { readonly departs: string } | { readonly notOurs: string }
}

const client = 'what a client must do'
const whole = 'of a server that lacks a feature; this one has it'

function table(rows: string): Statement[] {
  return rows
    .trim()
    .split('\n')
    .map((row) => {
      const [, id, mark, says] = /^\s*(\S+) (=|client|whole|≠) (.*)$/.exec(row)!
      const [text, why] = says!.split(' ≠ ')
      const state =
        mark === '='
          ? 'holds'
          : mark === '≠'
            ? { departs: why! }
            : { notOurs: mark === 'client' ? client : whole }
      return { id: id!, says: text!, state } as const
    })
}

/**
 * MQTT 5.0. A row: id, `=` holds, `client` or `whole` not ours, `≠` departs (and why, behind another `≠`),
 * what it says.
 */
export const mqtt5 = table(`
1.5.4-1 = text that is not well-formed UTF-8, or encodes a surrogate, is malformed
1.5.4-2 = U+0000 in a text is malformed
1.5.4-3 = U+FEFF is a character like others: it is not taken out
1.5.5-1 = a variable byte integer has no more bytes than it needs
1.5.7-1 = both texts of a pair are texts
2.1.3-1 = reserved flags of the fixed header have the value that they are listed with
2.2.1-2 = PUBLISH of QoS 0 has no Packet Identifier
2.2.1-3 = Packet Identifiers of clients are not 0
2.2.1-4 = a new PUBLISH to a client has an identifier that is not 0 and not in use
2.2.1-5 = PUBACK, PUBREC, PUBREL and PUBCOMP have the identifier of their PUBLISH
2.2.1-6 = SUBACK and UNSUBACK have the identifier of what they answer
2.2.2-1 = no properties are a length of 0, which is not left out
3.1.0-1 = the first packet is CONNECT
3.1.0-2 = a second CONNECT is a protocol error and ends the connection
3.1.2-1 = a protocol of another name is not served
3.1.2-2 = a version that is not known is answered by 0x84 and closed
3.1.2-3 = the reserved flag of CONNECT is 0
3.1.2-4 = Clean Start 1: what there was of the session is gone
3.1.2-5 = Clean Start 0: the session goes on where it was
3.1.2-6 = Clean Start 0 without a session: a new one
3.1.2-7 = a will is kept with the session
3.1.2-8 = a will is published when its connection is over, behind its delay or with the end of its session
3.1.2-9 = with the Will Flag its properties, topic and payload are there
3.1.2-10 = a will is gone when it was published, or DISCONNECT 0x00 came
3.1.2-11 = no Will Flag: Will QoS 0
3.1.2-12 = Will QoS is 0, 1 or 2
3.1.2-13 = no Will Flag: Will Retain 0
3.1.2-14 = Will Retain 0: the will is not retained
3.1.2-15 = Will Retain 1: it is
3.1.2-16 = no User Name Flag: no user name
3.1.2-17 = User Name Flag: a user name
3.1.2-18 = no Password Flag: no password
3.1.2-19 = Password Flag: a password
3.1.2-20 client PINGREQ in time
3.1.2-21 client Server Keep Alive in place of its own
3.1.2-22 = a client that is silent for one and a half times its Keep Alive is closed
3.1.2-23 = a session is kept for its Session Expiry Interval
3.1.2-24 = no packet to a client is larger than its Maximum Packet Size
3.1.2-25 = a message too large for a client counts as delivered
3.1.2-26 = no Topic Alias above the client's maximum
3.1.2-27 = none at all when that is 0 or not there
3.1.2-28 = Response Information only to who asks for it
3.1.2-29 = Reason Strings outside CONNACK and DISCONNECT only to who did not decline them
3.1.2-30 = before CONNACK a client that authenticates by a method sends AUTH and DISCONNECT only
3.1.3-1 = fields of the payload stand in their order
3.1.3-2 = the Client Identifier names the session
3.1.3-3 = it is there, and comes first
3.1.3-4 = it is UTF-8
3.1.3-5 = of 1 to 23 letters and digits it is allowed
3.1.3-6 = an empty one is replaced by one of ours that nobody has
3.1.3-7 = and that one is told in CONNACK
3.1.3-8 = one that is refused is refused by 0x85, and closed
3.1.3-9 = who comes back within Will Delay Interval has no will published
3.1.3-10 = User Properties of a will keep their order
3.1.3-11 = the Will Topic is UTF-8
3.1.3-12 = the user name is UTF-8
3.1.4-1 = a CONNECT that is not in order is closed
3.1.4-2 = one that is not authorized, too
3.1.4-3 = the earlier connection of the Client Identifier is told 0x8E and closed
3.1.4-4 = Clean Start is obeyed
3.1.4-5 = CONNACK 0x00 answers what is accepted
3.1.4-6 = of what is refused nothing behind CONNECT is processed
3.2.0-1 = nothing but AUTH is sent before CONNACK 0x00
3.2.0-2 = one CONNACK a connection
3.2.2-1 = CONNACK flags 7 to 1 are 0
3.2.2-2 = Clean Start 1: Session Present 0
3.2.2-3 = Clean Start 0: Session Present says whether there was a session
3.2.2-4 client closing when it has no session and we have
3.2.2-5 client forgetting its session when we have none
3.2.2-6 = a reason code that is not 0: Session Present 0
3.2.2-7 = CONNACK of 0x80 and more: then it is closed
3.2.2-8 = reason codes of CONNACK are those listed
3.2.2-9 whole Maximum QoS is told
3.2.2-10 whole SUBSCRIBE of any QoS is accepted all the same
3.2.2-11 client no QoS above Maximum QoS
3.2.2-12 whole a will of too high a QoS is refused
3.2.2-13 whole a will to be retained is refused
3.2.2-14 client no RETAIN where it is not available
3.2.2-15 client no packet above our Maximum Packet Size
3.2.2-16 = a client without an identifier is told one that no session has
3.2.2-17 client no Topic Alias above ours
3.2.2-18 client none when ours is 0
3.2.2-19 = no Reason String that makes CONNACK too large for its client
3.2.2-20 = no User Property that does (we send none)
3.2.2-21 = who is told a Server Keep Alive is held to it
3.2.2-22 = otherwise the client's Keep Alive holds
3.3.1-1 = a PUBLISH that is sent again has DUP 1
3.3.1-2 = QoS 0 never has DUP
3.3.1-3 = DUP towards a subscriber says nothing of the publisher's
3.3.1-4 = QoS 3 is malformed
3.3.1-5 = RETAIN 1 takes the place of what is retained
3.3.1-6 = an empty payload with RETAIN 1 is delivered, and takes away what is retained
3.3.1-7 = and is not retained itself
3.3.1-8 = RETAIN 0 changes nothing of what is retained
3.3.1-9 = Retain Handling 0: what is retained is sent
3.3.1-10 = 1: when the subscription is new
3.3.1-11 = 2: it is not
3.3.1-12 = no Retain As Published: RETAIN 0
3.3.1-13 = Retain As Published: RETAIN as it came
3.3.2-1 = the topic comes first, and is UTF-8
3.3.2-2 = a topic has no wildcards
3.3.2-3 = what comes matches the filter
3.3.2-4 = Payload Format Indicator is passed on
3.3.2-5 = what expired is not delivered
3.3.2-6 = what is left of Message Expiry Interval is told
3.3.2-7 = Topic Aliases end with their connection
3.3.2-8 = Topic Alias is never 0
3.3.2-9 = a client's above our maximum is refused, 0x94
3.3.2-10 client taking all aliases up to its maximum
3.3.2-11 = ours are at most the client's maximum
3.3.2-12 = all up to our maximum are taken
3.3.2-13 = Response Topic is UTF-8
3.3.2-14 = it has no wildcards
3.3.2-15 = it is passed on
3.3.2-16 = Correlation Data are passed on
3.3.2-17 = User Properties are passed on
3.3.2-18 = in their order
3.3.2-19 = Content Type is UTF-8
3.3.2-20 = it is passed on
3.3.4-1 = PUBACK answers QoS 1, PUBREC QoS 2
3.3.4-2 = overlapping subscriptions: the highest QoS of them
3.3.4-3 = with their Subscription Identifiers
3.3.4-4 = one copy has all of them
3.3.4-5 whole several copies have one each (there is one copy)
3.3.4-6 = a client sends no Subscription Identifier
3.3.4-7 client no more QoS ≥ 1 in flight than our Receive Maximum
3.3.4-8 client other packets go on at Receive Maximum
3.3.4-9 = no more QoS ≥ 1 in flight than the client's Receive Maximum
3.3.4-10 = other packets go on at Receive Maximum
3.4.2-1 = reason codes of PUBACK are those listed
3.4.2-2 = no Reason String that makes PUBACK too large
3.4.2-3 = no User Property that does (we send none)
3.5.2-1 = reason codes of PUBREC are those listed
3.5.2-2 = no Reason String that makes PUBREC too large
3.5.2-3 = no User Property that does (we send none)
3.6.1-1 = flags of PUBREL are 2, others are malformed
3.6.2-1 = reason codes of PUBREL are those listed
3.6.2-2 = no Reason String that makes PUBREL too large (we send none)
3.6.2-3 = no User Property that does (we send none)
3.7.2-1 = reason codes of PUBCOMP are those listed
3.7.2-2 = no Reason String that makes PUBCOMP too large (we send none)
3.7.2-3 = no User Property that does (we send none)
3.8.1-1 = flags of SUBSCRIBE are 2, others are malformed
3.8.3-1 = a filter is UTF-8
3.8.3-2 = there is one at least
3.8.3-3 = No Local: nothing of one's own comes back
3.8.3-4 = No Local on a Shared Subscription is a protocol error
3.8.3-5 = reserved options are malformed
3.8.4-1 = SUBSCRIBE is answered by SUBACK
3.8.4-2 = with its identifier
3.8.4-3 = the same filter again takes the place of the subscription
3.8.4-4 = what is retained comes again, and nothing is lost meanwhile
3.8.4-5 = several filters are as several SUBSCRIBEs, with one SUBACK
3.8.4-6 = SUBACK has a code for each
3.8.4-7 = the QoS that was granted, or why not
3.8.4-8 = messages come at the lower of their QoS and that
3.9.2-1 = no Reason String that makes SUBACK too large
3.9.2-2 = no User Property that does (we send none)
3.9.3-1 = codes of SUBACK are in the order of the filters
3.9.3-2 = they are those listed
3.10.1-1 = flags of UNSUBSCRIBE are 2, others are malformed
3.10.3-1 = a filter is UTF-8
3.10.3-2 = there is one at least
3.10.4-1 = filters are compared character by character
3.10.4-2 = behind UNSUBACK nothing new comes
3.10.4-3 = what was begun at QoS 1 or 2 is completed
3.10.4-4 = UNSUBSCRIBE is answered by UNSUBACK
3.10.4-5 = with its identifier, also when nothing was deleted
3.10.4-6 = several filters are as several UNSUBSCRIBEs, with one UNSUBACK
3.11.2-1 = no Reason String that makes UNSUBACK too large
3.11.2-2 = no User Property that does (we send none)
3.11.3-1 = codes of UNSUBACK are in the order of the filters
3.11.3-2 = they are those listed
3.12.4-1 = PINGREQ is answered by PINGRESP
3.14.0-1 = no DISCONNECT before a CONNACK that accepts
3.14.1-1 = flags of DISCONNECT are 0
3.14.2-1 = reason codes of DISCONNECT are those listed
3.14.2-2 = we send no Session Expiry Interval in DISCONNECT
3.14.2-3 = no Reason String that makes DISCONNECT too large
3.14.2-4 = no User Property that does (we send none)
3.14.4-1 = nothing is sent behind DISCONNECT
3.14.4-2 = the connection is closed behind it
3.14.4-3 = DISCONNECT 0x00 voids the will
3.15.1-1 = flags of AUTH are 0
3.15.2-1 = reason codes of AUTH are those listed
3.15.2-2 = no Reason String that makes AUTH too large (we send none)
3.15.2-3 = no User Property that does (we send none)
4.1.0-1 = a session is not discarded while its client is connected
4.1.0-2 = it is when its client is gone and Session Expiry Interval is over
4.2.0-1 = the transport is an ordered stream of bytes: TCP, TLS, WebSocket
4.3.1-1 = QoS 0 is sent with QoS 0 and DUP 0
4.3.2-1 = QoS 1: an unused identifier for each new message
4.3.2-2 = with DUP 0
4.3.2-3 = unacknowledged until PUBACK
4.3.2-4 = PUBACK with its identifier
4.3.2-5 = behind PUBACK the identifier is a new message's, whatever DUP says
4.3.3-1 = QoS 2: an unused identifier for each new message
4.3.3-2 = with DUP 0
4.3.3-3 = unacknowledged until PUBREC
4.3.3-4 = PUBREL answers PUBREC, with its identifier
4.3.3-5 = PUBREL is unacknowledged until PUBCOMP
4.3.3-6 = behind PUBREL the PUBLISH is not sent again
4.3.3-7 = what was sent does not expire any more
4.3.3-8 = PUBREC with its identifier
4.3.3-9 = behind a PUBREC that refuses the identifier is a new message's
4.3.3-10 = until PUBREL the same PUBLISH is answered and not published again
4.3.3-11 = PUBREL is answered by PUBCOMP with its identifier
4.3.3-12 = behind PUBCOMP the identifier is a new message's
4.3.3-13 = an exchange goes on though its message expired
4.4.0-1 = what is unacknowledged is sent again on a new connection of the session, under its identifiers, and never else
4.4.0-2 = a PUBACK or PUBREC that refuses is an acknowledgement
4.5.0-1 = a message is kept for every session that is subscribed
4.5.0-2 client acknowledging whatever it does with a message
4.6.0-1 = what is sent again keeps its order
4.6.0-2 = PUBACKs are in the order of the PUBLISHes
4.6.0-3 = PUBRECs, too
4.6.0-4 = PUBRELs are in the order of the PUBRECs
4.6.0-5 = messages of one publisher, topic and QoS come in their order
4.6.0-6 = of every topic
4.7.0-1 = wildcards are of filters, not of topics
4.7.1-1 = # is the last level, alone
4.7.1-2 = + is a whole level
4.7.2-1 = a filter that begins with a wildcard matches no topic that begins with $
4.7.3-1 = topics and filters have a character at least
4.7.3-2 = and no U+0000
4.7.3-3 = and at most 65,535 bytes
4.7.3-4 = they are compared as they are, not normalized
4.8.2-1 = a shared filter has a ShareName
4.8.2-2 = without / + and #, and a filter behind it
4.8.2-3 = messages of a Shared Subscription come at the QoS granted to the member
4.8.2-4 = a QoS 2 message that a member has begun is completed with it when it comes back
4.8.2-5 = and goes to no other member
4.8.2-6 = a message that a member refuses goes to nobody else
4.9.0-1 = the send quota begins at Receive Maximum
4.9.0-2 = at a quota of 0 nothing of QoS ≥ 1 is sent
4.9.0-3 = everything else is
4.12.0-1 = an Authentication Method that is not there: 0x8C
4.12.0-2 = AUTH 0x18 asks for more
4.12.0-3 = and is answered by AUTH 0x18
4.12.0-4 = a failed exchange: CONNACK of 0x80 and more, and closed
4.12.0-5 = AUTH and CONNACK have the method of CONNECT
4.12.0-6 = no AUTH, and no method in CONNACK, to who named none
4.12.0-7 = nor from one who named none
4.12.1-1 = a client may authenticate again, by the same method
4.12.1-2 = one that fails is told by DISCONNECT
4.13.1-1 = a malformed packet or protocol error ends the connection
4.13.2-1 = a CONNACK or DISCONNECT of 0x80 and more does, too
6.0.0-1 = WebSocket: packets come in binary frames, others close the connection
6.0.0-2 = they need not begin or end with a frame
6.0.0-3 client offering the subprotocol mqtt
6.0.0-4 = the subprotocol is mqtt
`)

/** MQTT 3.1.1. */
export const mqtt311 = table(`
1.5.3-1 = text that is not well-formed UTF-8, or encodes a surrogate, closes the connection
1.5.3-2 = so does U+0000
1.5.3-3 = U+FEFF is a character like others: it is not taken out
2.2.2-1 = reserved flags have the value that they are listed with
2.2.2-2 = others close the connection
2.3.1-1 = SUBSCRIBE, UNSUBSCRIBE and PUBLISH of QoS ≥ 1 have a Packet Identifier that is not 0
2.3.1-2 client one that is not in use, for each new packet
2.3.1-3 client the same one when it sends again
2.3.1-4 = so do we for PUBLISH
2.3.1-5 = QoS 0 has none
2.3.1-6 = PUBACK, PUBREC and PUBREL have that of their PUBLISH
2.3.1-7 = SUBACK and UNSUBACK have that of what they answer
3.1.0-1 = the first packet is CONNECT
3.1.0-2 = a second one closes the connection
3.1.2-1 = a protocol of another name is not served
3.1.2-2 = a level that is not known: return code 1, and closed
3.1.2-3 = the reserved flag of CONNECT is 0
3.1.2-4 = Clean Session 0: the session goes on, or a new one begins, and it outlives the connection
3.1.2-5 = messages of QoS ≥ 1 are kept for it meanwhile
3.1.2-6 = Clean Session 1: what there was is gone, and nothing is kept
3.1.2-7 = Retained Messages outlive sessions
3.1.2-8 = a will is published when its connection ends without DISCONNECT
3.1.2-9 = with the Will Flag topic and message are there, and its QoS and RETAIN are used
3.1.2-10 = a will is gone when it was published, or DISCONNECT came
3.1.2-11 = no Will Flag: Will QoS and Will Retain 0, no topic, no message
3.1.2-12 = no Will Flag: nothing is published
3.1.2-13 = no Will Flag: Will QoS 0
3.1.2-14 = Will QoS is not 3
3.1.2-15 = no Will Flag: Will Retain 0
3.1.2-16 = Will Retain 0: the will is not retained
3.1.2-17 = Will Retain 1: it is
3.1.2-18 = no User Name Flag: no user name
3.1.2-19 = User Name Flag: a user name
3.1.2-20 = no Password Flag: no password
3.1.2-21 = Password Flag: a password
3.1.2-22 = no User Name Flag: no Password Flag
3.1.2-23 client PINGREQ in time
3.1.2-24 = a client that is silent for one and a half times its Keep Alive is closed
3.1.3-1 = fields of the payload stand in their order
3.1.3-2 = the Client Identifier names the session
3.1.3-3 = it is there, and comes first
3.1.3-4 = it is UTF-8
3.1.3-5 = of 1 to 23 letters and digits it is allowed
3.1.3-6 = an empty one is replaced by one that nobody has
3.1.3-7 client Clean Session 1 with an empty one
3.1.3-8 = an empty one with Clean Session 0: return code 2, and closed
3.1.3-9 = one that is refused: return code 2, and closed
3.1.3-10 = the Will Topic is UTF-8
3.1.3-11 = the user name is UTF-8
3.1.4-1 = a CONNECT that is not in order is closed without CONNACK
3.1.4-2 = the earlier connection of the Client Identifier is closed
3.1.4-3 = Clean Session is obeyed
3.1.4-4 = CONNACK 0 answers what is accepted
3.1.4-5 = of what is refused nothing behind CONNECT is processed
3.2.0-1 = the first packet to a client is CONNACK
3.2.2-1 = Clean Session 1: Session Present 0
3.2.2-2 = Clean Session 0 and a session: 1
3.2.2-3 = Clean Session 0 and none: 0
3.2.2-4 = a return code that is not 0: Session Present 0
3.2.2-5 = and closed
3.2.2-6 = where no return code says it: closed without CONNACK
3.3.1-1 = a PUBLISH that is sent again has DUP 1
3.3.1-2 = QoS 0 never has DUP
3.3.1-3 = DUP towards a subscriber says nothing of the publisher's
3.3.1-4 = QoS 3 closes the connection
3.3.1-5 = RETAIN 1 takes the place of what is retained
3.3.1-6 = a new subscription gets what is retained
3.3.1-7 = RETAIN 1 of QoS 0 takes away what was retained before
3.3.1-8 = what is sent because of a SUBSCRIBE has RETAIN 1
3.3.1-9 = what comes by a subscription has RETAIN 0
3.3.1-10 = an empty payload with RETAIN 1 is delivered, and takes away what is retained
3.3.1-11 = and is not retained itself
3.3.1-12 = RETAIN 0 changes nothing of what is retained
3.3.2-1 = the topic comes first, and is UTF-8
3.3.2-2 = a topic has no wildcards
3.3.2-3 = what comes matches the filter
3.3.4-1 = PUBACK answers QoS 1, PUBREC QoS 2
3.3.5-1 = overlapping subscriptions: the highest QoS of them
3.3.5-2 = a PUBLISH that is not allowed is acknowledged, or its connection closed
3.6.1-1 = flags of PUBREL are 2, others close the connection
3.8.1-1 = flags of SUBSCRIBE are 2, others close the connection
3.8.3-1 = a filter is UTF-8
3.8.3-2 whole filters with wildcards are refused
3.8.3-3 = there is one filter at least
3.8.3-4 = reserved bits close the connection
3.8.4-1 = SUBSCRIBE is answered by SUBACK
3.8.4-2 = with its identifier
3.8.4-3 = the same filter again takes the place of the subscription; what is retained comes again, and nothing is lost
3.8.4-4 = several filters are as several SUBSCRIBEs, with one SUBACK
3.8.4-5 = SUBACK has a code for each
3.8.4-6 = messages come at the lower of their QoS and what was granted
3.9.3-1 = codes of SUBACK are in the order of the filters
3.9.3-2 = they are 0, 1, 2 or 0x80
3.10.1-1 = flags of UNSUBSCRIBE are 2, others close the connection
3.10.3-1 = a filter is UTF-8
3.10.3-2 = there is one at least
3.10.4-1 = filters are compared character by character
3.10.4-2 = behind UNSUBACK nothing new comes
3.10.4-3 = what was begun at QoS 1 or 2 is completed
3.10.4-4 = UNSUBSCRIBE is answered by UNSUBACK, with its identifier
3.10.4-5 = also when nothing was deleted
3.10.4-6 = several filters are as several UNSUBSCRIBEs, with one UNSUBACK
3.12.4-1 = PINGREQ is answered by PINGRESP
3.14.1-1 = flags of DISCONNECT are 0
3.14.4-1 client closing behind DISCONNECT
3.14.4-2 client nothing behind DISCONNECT
3.14.4-3 = DISCONNECT voids the will
4.1.0-1 = a session is kept while its client is connected
4.1.0-2 = and no shorter
4.2.0-1 = the transport is an ordered stream of bytes: TCP, TLS, WebSocket
4.3.1-1 = QoS 0 is sent with QoS 0 and DUP 0
4.3.2-1 = QoS 1: an unused identifier, DUP 0, unacknowledged until PUBACK
4.3.2-2 = PUBACK; behind it the identifier is a new message's
4.3.3-1 = QoS 2: an unused identifier, DUP 0, PUBREL behind PUBREC, and no PUBLISH behind PUBREL
4.3.3-2 = PUBREC; until PUBREL the same PUBLISH is not published again; PUBCOMP
4.4.0-1 = what is unacknowledged is sent again on a new connection of the session, under its identifiers
4.5.0-1 = a message is kept for every session that is subscribed
4.5.0-2 client acknowledging whatever it does with a message
4.6.0-1 = what is sent again keeps its order
4.6.0-2 = PUBACKs are in the order of the PUBLISHes
4.6.0-3 = PUBRECs, too
4.6.0-4 = PUBRELs are in the order of the PUBRECs
4.6.0-5 = every topic is ordered
4.6.0-6 = messages of one publisher, topic and QoS come in their order
4.7.1-1 = wildcards are of filters, not of topics
4.7.1-2 = # is the last level, alone
4.7.1-3 = + is a whole level
4.7.2-1 = a filter that begins with a wildcard matches no topic that begins with $
4.7.3-1 = topics and filters have a character at least
4.7.3-2 = and no U+0000
4.7.3-3 = and at most 65,535 bytes
4.7.3-4 = they are compared as they are, not normalized
4.8.0-1 = a protocol violation closes the connection
4.8.0-2 ≠ a packet that cannot be processed for the moment closes the connection ≠ Here the connection stays open, and the packet and its acknowledgement wait: a store that is away ends nobody's connection (P10)
6.0.0-1 = WebSocket: packets come in binary frames, others close the connection
6.0.0-2 = they need not begin or end with a frame
6.0.0-3 client offering the subprotocol mqtt
6.0.0-4 = the subprotocol is mqtt
7.0.0-1 whole a server that connects to other servers is a client, too (nodes do not speak MQTT to one another)
7.0.0-2 = nothing beyond the standard is needed to work with it
7.1.1-1 = a server works with what it receives by these rules (the table as a whole)
7.1.2-1 client conformance of clients
`)
