"""What travels between processes, and nothing of how it travels.

| module    | what it specifies                                                                  |
|-----------|--------------------------------------------------------------|
| `data`    | the frames between two replicas: HELLO, DATA, STATE, ... |
| `run`     | units, and runs of them: what the frames count                                      |
| `payload` | what a codec makes of a list of items                                               |
| `codec`   | pickle protocol 5 with out-of-band buffers                                          |
| `control` | the messages between replica, coordinator and supervisor                            |
| `picture` | what is known of a running pipeline: the census of a supervisor, the whole picture  |
"""
