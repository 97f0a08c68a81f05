def explain_trap(backtrace):
    return None
