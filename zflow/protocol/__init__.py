"""The data plane as pure state machines: event and now_s in, actions out.

No zmq, clock, thread, random number or file.
"""
