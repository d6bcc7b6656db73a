"""Work that takes no time, in a module that imports nothing."""


def nothing(context):
    return "done"


def bare():
    pass
