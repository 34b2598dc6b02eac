#pragma once

#include <drover/detail/platform.hpp>

#include <functional>

#include <drover/detail/config.hpp>
#include <drover/worker/routines.hpp>

namespace drover { inline namespace v1 {

/// True if this process was started as a worker. Call it at the start of main(), and return serve() if it is true:
///
///     if (drover::in_worker()) return drover::serve(routines);
///
/// The first call in a worker starts a thread that guards the process until it has exited, including the destruction of
/// statics. This thread notices the parent's death, and terminates the process when its shutdown deadline has passed,
/// whatever other threads do (exit code 1, no destructors). The call also installs handlers for SIGTERM, SIGINT and
/// SIGHUP where the disposition is the default. SA_RESTART is set, so that read(2), write(2) and wait(2) are not
/// interrupted, while sleeps and poll(2) may end with EINTR (signal(7)). Signal masks are not changed.
///
/// Before serve() has begun there is no work to finish: those signals terminate the process as they do by default, and
/// the death of the parent terminates it at once.
///
/// What a worker has to do while it has one thread only, such as entering a user namespace or a seccomp filter for all
/// threads, goes before the first call. The variable DROVER_WORKER is set there in a worker. It must stay as it is, and
/// so must descriptors 3 to 6.
///
/// In every other process, including those that a worker starts later, in_worker() returns false and has no effect.
///
/// *Errors:* a process that was started as a worker, but cannot be one, exits here with a line on stderr, and the
/// parent's start() fails at once. The exit code is 76 if its descriptors did not reach it (a wrapper command may close
/// them), and 71 if it is out of descriptors, threads or memory. It never continues as the parent program.
/// *Threads:* any thread; the result never changes.
bool in_worker();

/// The same. The first call in a worker also calls `prepare`, before it returns, for what is the same in all workers of
/// a pool: a model that is loaded, a table that is filled. With Launch::fork it is called once in the fork server, and
/// the workers share the memory that it has filled; it must leave no thread behind, or workers are executed. Otherwise
/// it is called in each worker. There is no this_worker yet in a fork server.
///
/// *Errors:* what it throws becomes Errc::start_failed at the parent's start(), with type and text; this process exits
/// with code 70.
/// *Cancellation:* the parent's start time-out covers it, and the parent's death ends the process at once. In a fork
/// server the end of the thread that started the pool counts as that, see PR_SET_PDEATHSIG in prctl(2).
bool in_worker(const std::function<void()>& prepare);

/// Reports to the parent that this worker is ready, then runs the calls that the parent sends. It returns when the
/// parent, a signal or the parent's death has asked the worker to stop, the calls in flight have ended, and what was
/// added by Routines::on_stop() has run. The result is 0, or 70 if a function of Routines::on_start() has thrown, for
/// main() to return. Destructors that run afterwards are still subject to the deadline of that stop, or to
/// `WorkerOptions::shutdown_grace` if it had none.
///
///  * SIGTERM (and SIGHUP) cancels the calls in flight, unless WorkerOptions::on_terminate says otherwise. SIGINT lets
///    them finish, a second SIGINT cancels them. Calls that had not begun by then are returned to the parent, which
///    gives them to another worker.
///  * The parent's death cancels them, too. After `shutdown_grace` the process exits with code 1. If it leads its
///    process group, the rest of that group is killed then, however the worker exits.
///
/// Call it once, on the main thread, in a process in which in_worker() is true (calling in_worker() before is
/// optional).
///
/// *Errors:* std::logic_error if the process is not a worker, or serve() was called before. A process that is out of
/// descriptors or threads exits as in in_worker(). Exceptions from handlers that a routine posted to the main thread's
/// loop propagate out of serve().
int serve(const Routines& routines);

}}  // namespace drover::v1

#if !defined(DROVER_SEPARATE_COMPILATION)
#include <drover/worker/serve.ipp>
#endif
