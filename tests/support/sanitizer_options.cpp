// Linked into the programs that tests start. Processes that end must not be kept by their sanitizer: ThreadSanitizer
// waits for a second, and LeakSanitizer stops the process by ptrace(2), which hangs when SIGCONT comes then, as it does
// in a stop.
extern "C" const char* __tsan_default_options() { return "atexit_sleep_ms=0"; }
extern "C" const char* __asan_default_options() { return "detect_leaks=0"; }
