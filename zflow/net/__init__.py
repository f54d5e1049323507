"""The sockets: the only importer of zmq."""
