# A client of Eclipse Paho for Python, for test/cluster/foreign-clients.test.ts. Its only argument says in JSON what it
# does: `subscribe` prints each message as a line of JSON until `count` came; `publish` ends when all is acknowledged;
# `respond` answers requests; `die` connects with a will and is gone.
import json
import os
import sys
import threading

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

what = json.loads(sys.argv[1])
is5 = what["version"] == 5
# 2.0 and later ask for the form of callbacks
form = (mqtt.CallbackAPIVersion.VERSION1,) if hasattr(mqtt, "CallbackAPIVersion") else ()
options = {} if is5 else {"clean_session": what.get("clean", True)}
client = mqtt.Client(*form, client_id=what["id"], protocol=mqtt.MQTTv5 if is5 else mqtt.MQTTv311, **options)
connected, done = threading.Event(), threading.Event()
left = [what.get("count", 1)]


def on_connect(_client, _userdata, flags, code, _properties=None):
    print(json.dumps({"connected": int(str(code) not in ("0", "Success")), "sessionPresent": flags["session present"]}), flush=True)
    if "filter" in what:
        client.subscribe(what["filter"], what.get("qos", 2))
    connected.set()


def on_subscribe(*_):
    print(json.dumps({"subscribed": True}), flush=True)


def on_message(_client, _userdata, message):
    properties = getattr(message, "properties", None)
    shown = {"topic": message.topic, "payload": message.payload.decode(), "qos": message.qos, "retain": message.retain}
    if properties is not None and hasattr(properties, "UserProperty"):
        shown["user"] = properties.UserProperty
    print(json.dumps(shown), flush=True)
    if what["do"] == "respond":
        answer, topic = None, what["answers"]
        if is5:
            answer = Properties(PacketTypes.PUBLISH)
            answer.CorrelationData = properties.CorrelationData
            topic = properties.ResponseTopic
        client.publish(topic, "answer to " + message.payload.decode(), 1, properties=answer)
    left[0] -= 1
    if left[0] == 0:
        done.set()


client.on_connect, client.on_subscribe, client.on_message = on_connect, on_subscribe, on_message
if what["do"] == "die":
    client.will_set(what["topic"], what["payload"], 1)
session = {}
if is5:
    session["clean_start"] = what.get("clean", True)
    if not what.get("clean", True):
        session["properties"] = Properties(PacketTypes.CONNECT)
        session["properties"].SessionExpiryInterval = 600
client.connect(what["host"], what["port"], 30, **session)
client.loop_start()
if not connected.wait(20):
    sys.exit("no CONNACK")
if what["do"] == "die":
    os._exit(0)
if what["do"] == "publish":
    for message in what["messages"]:
        properties = None
        if is5 and "user" in message:
            properties = Properties(PacketTypes.PUBLISH)
            properties.UserProperty = [tuple(pair) for pair in message["user"]]
        sent = client.publish(message["topic"], message["payload"], message["qos"], message.get("retain", False), properties=properties)
        sent.wait_for_publish(20)
elif not done.wait(20):
    sys.exit("not all came")
# what was acknowledged last is on its way by then
client.disconnect()
client.loop_stop()
