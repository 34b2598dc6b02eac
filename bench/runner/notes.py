"""How each figure is measured, in a few sentences: printed below the results."""

SPAWN = ("The parent's memory is in pages of 4 KiB. All children inherit stdin, stdout and stderr. drover's child "
         "also gets a process group, an empty signal mask, default dispositions and no other descriptor.")
START = ("raw executes the same program again and waits until its Asio loop has sent a byte. drover's worker has "
         "also sent the names of its routines and started its control thread.")
STOP = ("raw is one byte on a socket, on which main() of the child returns, and waitid(). No calls are in flight. "
        "drover also kills what is left of the process group.")
ECHO = ("raw is write, epoll_wait and read of 64 bytes on both sides. drover's 64 bytes are a std::string in each "
        "direction, with the routine's name and a header of 24 bytes.")
BULK = ("raw sends from one buffer and receives into one buffer, with a send buffer as wide as drover's. `raw, "
        "default buffer` has the kernel's. drover's std::string is moved in, borrowed, or passed by reference and "
        "copied. The routine sees it as a std::string_view.")
SHARED = ("raw is that of T-9. drover copies each payload to memory of drover::SharedBlocks and sends that; the routine "
          "sees it and does not read it, as the receiver of raw does not. `fresh memory` is drover::Shared<T>::copy_of(). "
          "`as a result` is the same in the other direction: the worker copies to fresh memory.")
SPIN = ("raw sleeps in epoll_wait, as in T-7. drover's parent and worker poll for 1 ms after each call, each on a "
        "core of its own. `raw, both sides spin` is the least that is possible.")
SIZE = ("Parent and workers share one core. One caller, 64 B, p50. raw is a pool of one worker.")
POOL_KEYS = ("1000 std::string keys in random order, one thread, CPU time. raw is the least that an acquire and a "
             "release take: a lock, a look-up and a count, then a lock and a count. `lock + look-up` does not count.")
COMPILE = ("The sources are in bench/compile/. The target holds for programs that compile drover/src.hpp once. "
           "Without that, every file reads all of drover's code. The whole program has both sides in one file.")
MEMORY = ("Private pages, for workers that have run a call. The kernel's memory, such as that of sockets, is not "
          "counted.")
DEATH = ("raw children are forked copies that call _exit(). drover's workers return from serve() and run the "
         "destructors of static objects. The executed programs end in the same way, without drover.")
COUNTED = ("One call after the other with 64 bytes in each direction, parent and worker on one core: the difference "
           "of a run of 3000 calls and one of 1000, for each call. Instructions are those in user space.")
DEFAULTS = ("64 callers share one worker. With the default, one call, the worker has nothing to do between two calls "
            "until the parent has answered. raw has two calls in flight.")
OPEN_LOOP = ("Calls arrive at random, at 80 % of the rate that 8 callers reach, and do not wait for earlier ones. A "
             "latency counts from the time at which the call was due. 4 workers on 2 cores, calls of 0.5 ms CPU "
             "time. Slow calls sleep for 50 ms; only the others are counted. With kill_after they get a deadline of "
             "25 ms and 1 ms more. Nothing is lost if every call ends once, and no more calls fail than workers were "
             "killed. Killed workers are replaced with the default delay of 50 ms.")
TOGETHER = ("N deadlines are due at the same time. For calls, the parent's loop stands still until they are. The "
            "deadlines of children are set in the reaper thread without processes, of which no machine has 16,000.")
GROWTH = ("CPU time of one thread. The costs of one key are those of the same key again and again, so that the sizes "
          "of the caches do not matter; `any` and `new` show what they add. raw is a lock and a std::unordered_map "
          "(with any key only a look-up), which rehashes all keys at once. The longest operation is the longest "
          "acquire, or the longest turn of the loop while all keys expire at the same time or are cleared. Growing "
          "and expiring are done twice, and the shorter time of each counts, so that what the machine does besides "
          "is not a long operation. A quick run ends at 100,000 keys.")
THREADS = ("Each thread acquires and releases 1000 keys of its own, in one pool. The threads are pinned to two "
           "cores, so that four share them. One thread is the baseline. `one lock` looks up and counts under one "
           "lock.")
SPARE = ("The worker is killed by SIGKILL; the call that finds it dead is made again. The kernel takes most of the time to "
         "end a process with three threads.")
FORK = "WorkerPool::resize() by one worker, until it is ready. Private memory is that of /proc/PID/smaps_rollup."
RELOAD = ("WorkerPool::reload() while 64 callers call, each again when its call has ended, or while calls arrive at "
          "random, at half that rate. Calls of 0.5 ms CPU time on two cores, which starts and ends of workers use, "
          "too. A quick run has 16 workers.")
START_MANY = ("The longest turn of the parent's loop during WorkerPool::start. raw is posix_spawn of the same "
              "program, one at a turn, and a socket. The workers start on the same two cores; the time for which the "
              "loop has to wait for a core does not count, that for which a spawn suspends it does. A quick run "
              "starts 64 workers.")
SIGNATURE = ("A file with calls of eleven signatures beside the same file with one: a tenth of the difference. Code "
             "is the text of the object file. drover/src.hpp is compiled elsewhere.")
IDLE = ("Voluntary context switches of all threads within 5 s (in a quick run 1 s) in which no call is made, without "
        "the one that ends this time. A thread that makes a system call has woken up, and goes to sleep again.")
STREAM = ("An item is a std::string that the caller gets. The raw socket reads and writes 64 KiB at a time, from and "
          "into one place, with the send buffer that drover has; it makes no strings. The first item counts from "
          "stream().")
