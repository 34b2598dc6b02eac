#pragma once

#include <drover/detail/platform.hpp>

#include <drover/detail/config.hpp>
#include <drover/worker/routines.hpp>

namespace drover { inline namespace v1 {

/// Was this process started as a worker? Ask it first thing in main(), and if so, end in serve():
///
///     if (drover::in_worker()) return drover::serve(routines);
///
/// The first call that finds it so arms the watchdog, a thread that guards the process until it has gone, through the
/// destruction of statics too: it notices the parent's death, and ends the process once it has outlived what it was
/// granted, whatever other threads do (exit code 1, no destructors). It installs handlers for SIGTERM, SIGINT and
/// SIGHUP where the disposition is the default; SA_RESTART is set, so that read(2), write(2) and wait(2) are not
/// interrupted, while sleeps and poll(2) may end with EINTR (signal(7)). Masks are not touched.
///
/// Until serve() has begun there is nothing to finish: those signals end the process as they do by default, and so does
/// the death of the parent, at once.
///
/// False, without any effect, in every other process, also in those that a worker starts afterwards. Any thread; the
/// answer never changes.
///
/// *Errors:* a process that was started as a worker, but cannot be one, ends here with a line on stderr, and the
/// parent's start() fails at once: with exit code 76 if its descriptors did not reach it (a command that is a wrapper
/// may close them), with 71 if it is out of descriptors, threads or memory. It never goes on as the parent program.
bool in_worker();

/// Tells the parent that this worker is ready, then runs the calls it sends until the parent, a signal or the parent's
/// death asks it to stop, and what is in flight has ended. Then returns what main() is to return: 0. The destructors
/// that run after it are still under the bound that the stop was given, or `WorkerOptions::shutdown_grace` where it had
/// none.
///
///  * SIGTERM (and SIGHUP) cancels the calls in flight, unless WorkerOptions::on_terminate says otherwise; SIGINT lets
///    them finish, a second one cancels them. Calls that had not begun by then go back to the parent, which gives them
///    to another worker.
///  * The parent's death cancels them too; after `shutdown_grace` the process ends, exit code 1. What is left of its
///    process group, if it leads it, is killed then, however the worker ends.
///
/// Call it on the main thread, once, in a process in which in_worker() is true (it may, but need not have been asked);
/// std::logic_error otherwise. A process that is out of descriptors or threads ends as in in_worker(). What handlers
/// throw that routines have posted to the main thread's loop themselves comes out of it, too.
int serve(const Routines& routines);

}}  // namespace drover::v1

#if !defined(DROVER_SEPARATE_COMPILATION)
#include <drover/worker/serve.ipp>
#endif
