#pragma once

#include <algorithm>
#include <atomic>
#include <optional>

#include <asio/query.hpp>
#include <asio/steady_timer.hpp>
#include <asio/this_coro.hpp>

#include <drover/pool/detail/worker/session.hpp>

namespace drover { inline namespace v1 { namespace detail {

inline bool WorkerCore::begin_stop(Timeout grace) {
  require_not_negative(grace, "the grace of stop()");
  std::vector<std::shared_ptr<Call>> waiting;
  {
    const auto held = lock();
    if (phase_ == Phase::fresh) return false;
    const auto now = Clock::now();
    if (phase_ == Phase::ended) {
      if (child_ && !stop_.begun()) {  // it went before it was asked to
        stop_.ask(now, grace);
        report_.rpc = make_error_code(metadata_ ? Errc::worker_exited : Errc::not_running);
        report_.terminated = report_.killed = false;
        report_of_the_dead_ = true;
      }
      return true;
    }
    const bool first = !stop_.begun();
    const bool shorter = stop_.ask(now, grace);
    if (first) {
      stopping_now(waiting);
    }
    if (phase_ == Phase::starting) {
      reap_within(Duration::zero());
    } else if (shorter) {
      send_stop();
      reap_within(stop_.end_by() ? Timeout(*stop_.end_by() - now) : Timeout{});
    }
  }
  Dispatcher::fail(std::move(waiting), dispatcher_refusal());
  return true;
}

inline void WorkerCore::stopping_now(std::vector<std::shared_ptr<Call>>& dropped) {
  lane_.close();
  died_unasked_ = child_ && !child_->running();  // on_ended() is about to tell so
  if (!died_unasked_) emit(Event::Kind::stopping);
  if (!mode_.solo) return;
  dispatcher_->refuse([what = "worker '" + options_.name + "' is being stopped"] {
    return std::make_exception_ptr(Error(Errc::stopping, what));
  });
  dropped = dispatcher_->drop_queue();
}

inline void WorkerCore::send_stop() {
  const auto nanoseconds = [](Deadline at) {
    return at ? std::chrono::duration_cast<std::chrono::nanoseconds>(at->time_since_epoch()).count() : never;
  };
  StopBody body;
  body.drain_until = nanoseconds(stop_.drain_until());
  // One whose stop was cut short still has the time between SIGTERM and SIGKILL, for its calls to clean up.
  const Deadline end_by = stop_.end_by();
  body.end_by = nanoseconds(end_by && stop_.cut_off() ? deadline_after(*end_by, options_.term_grace) : end_by);
  FrameHeader header;
  header.type = FrameType::stop;
  header.id = lane_.last_id();
  queue_control(header, encode_body(body));
}

inline void WorkerCore::reap_within(Timeout patience) {
  if (!child_) return;  // being spawned; begin_start() looks again
  if (patience && *patience < Duration::zero()) patience = Duration::zero();
  child_->reap({.patience = patience, .term_grace = options_.term_grace});
}

inline void WorkerCore::cut_stop(Clock::time_point at) {
  const auto held = lock();
  if (!stop_.begun() || phase_ == Phase::ended || !stop_.cut(at)) return;
  if (phase_ == Phase::ready) send_stop();
  reap_within(at - Clock::now());
}

inline void WorkerCore::abort_stop() {
  std::vector<std::shared_ptr<Call>> waiting;
  {
    const auto held = lock();
    if (phase_ != Phase::starting && phase_ != Phase::ready) return;
    const auto now = Clock::now();
    if (!stop_.begun()) {
      stop_.ask(now, Duration::zero());
      stopping_now(waiting);
    }
    stop_.abort(now);
    if (phase_ == Phase::ready) send_stop();
    reap_within(Duration::zero());
  }
  Dispatcher::fail(std::move(waiting), dispatcher_refusal());
}

inline void WorkerCore::kill_now() {
  abort_stop();
  const auto held = lock();
  if (child_) child_->reap({.patience = Duration::zero(), .term_grace = Duration::zero()});
}

inline bool WorkerCore::begin_reap(Timeout patience) {
  require_not_negative(patience, "the patience of reap()");
  std::vector<std::shared_ptr<Call>> waiting;
  {
    const auto held = lock();
    if (phase_ != Phase::starting && phase_ != Phase::ready) return phase_ != Phase::fresh;
    if (!stop_.begun()) {
      stop_.ask(Clock::now(), std::nullopt);
      stopping_now(waiting);
    }
    reap_within(phase_ == Phase::starting ? Timeout(Duration::zero()) : patience);
  }
  Dispatcher::fail(std::move(waiting), dispatcher_refusal());
  return true;
}

inline Cause WorkerCore::dispatcher_refusal() const {
  const auto held = lock();
  return dispatcher_->refusal();
}

[[noreturn]] inline void throw_refused_kill(std::error_code refused) {
  throw std::system_error(refused, "a worker can't be killed; the reaper waits for its end");
}

inline asio::awaitable<void> WorkerCore::await_end(std::shared_ptr<WorkerCore> core, int cancellations) {
  std::vector<std::shared_ptr<WorkerCore>> cores{std::move(core)};
  return await_ends(std::move(cores), true, cancellations);
}

inline asio::awaitable<void> WorkerCore::await_ends(std::vector<std::shared_ptr<WorkerCore>> cores, bool leaves,
                                                    int cancellations) {
  const bool throws = co_await asio::this_coro::throw_if_cancelled();
  co_await asio::this_coro::throw_if_cancelled(false);
  const asio::cancellation_state before = co_await asio::this_coro::cancellation_state;
  const bool cancelled_before = before.cancelled() != asio::cancellation_type::none;
  const asio::any_io_executor executor = co_await asio::this_coro::executor;
  std::error_code refused;
  bool alone = false;
  for (std::size_t at = 0; at < cores.size() && !(leaves && cancellations > 1);) {
    const std::shared_ptr<WorkerCore> core = cores[at];
    std::shared_ptr<Child> child;
    {
      const auto held = core->lock();
      child = core->child_;
      if (core->phase_ == Phase::fresh) core->finished_->set();
    }
    bool cancelled = false;
    try {
      // The process first: its end is known even if the worker's own context is gone.
      if (child) co_await AsyncEvent::wait(child->settled());
      if (child && child->refused())
        refused = child->refused();
      else
        alone = co_await await_conclusion(core, executor, alone);
      ++at;
    } catch (const std::system_error&) {
      cancelled = true;
    }
    if (!cancelled_before && cancellations == 0) {  // it may have come as a wait was over already
      const asio::cancellation_state now = co_await asio::this_coro::cancellation_state;
      cancelled = now.cancelled() != asio::cancellation_type::none;
    }
    if (cancelled && ++cancellations == 1)
      for (const auto& each : cores) each->abort_stop();
  }
  // What has happened is told before this returns: who listens may go then.
  std::shared_ptr<EventSink> last;
  for (std::size_t at = 0; at < cores.size() && !(leaves && cancellations > 1); ++at) {
    if (!cores[at]->events_ || cores[at]->events_ == last) continue;
    last = cores[at]->events_;
    co_await EventSink::all_told(last, cores[at]->patience_with_handlers(executor));
  }
  co_await asio::this_coro::throw_if_cancelled(throws);
  if (cancellations != 0) throw std::system_error(std::error_code(asio::error::operation_aborted));
  if (refused) throw_refused_kill(refused);
}

inline asio::awaitable<void> WorkerCore::await_ends_for_certain(std::vector<std::shared_ptr<WorkerCore>> cores) {
  // The state of cancellation that await_ends() would look at is left behind with this coroutine's.
  const asio::any_io_executor executor = co_await asio::this_coro::executor;
  const bool throws = co_await asio::this_coro::throw_if_cancelled();
  co_await asio::this_coro::throw_if_cancelled(false);
  const auto over = std::make_shared<AsyncEvent>();
  asio::co_spawn(executor, await_ends(std::move(cores), false), [over](const std::exception_ptr&) { over->set(); });
  while (!over->is_set()) {
    try {
      co_await AsyncEvent::wait(over);
    } catch (const std::system_error&) {  // cancelled: that is the caller's affair
    }
  }
  co_await asio::this_coro::throw_if_cancelled(throws);
}

/// The process has ended, and the worker's own context sees to the rest. If that is not running (any more), whoever
/// waits on another one does it, after a while; at once if he is known to be `alone`. Returns whether he is.
inline asio::awaitable<bool> WorkerCore::await_conclusion(std::shared_ptr<WorkerCore> core,
                                                          asio::any_io_executor executor, bool alone) {
  const auto turn = std::make_shared<std::atomic<bool>>(alone);
  std::optional<asio::steady_timer> patience;
  if (alone) {
    core->on_ended(false);
  } else if (!core->at_home(executor) && !core->finished_->is_set()) {
    patience.emplace(executor, std::chrono::milliseconds(100));
    patience->async_wait([core, turn](std::error_code ec) {
      if (ec) return;
      *turn = true;
      core->on_ended(false);
    });
  }
  co_await AsyncEvent::wait(core->finished_);
  co_return *turn;
}

inline bool WorkerCore::at_home(const asio::any_io_executor& executor) const {
  return Home::of(asio::query(executor, asio::execution::context)) == dispatcher_->home();
}

/// Handlers run on the worker's context. Who waits on another one can't tell whether it does; in the end he gives up,
/// and they are not called any more.
inline Timeout WorkerCore::patience_with_handlers(const asio::any_io_executor& executor) const {
  if (at_home(executor)) return std::nullopt;
  return std::max<Duration>(options_.term_grace, std::chrono::seconds(1));
}

inline asio::awaitable<StopReport> WorkerCore::await_stop(std::shared_ptr<WorkerCore> core) {
  if (!core) co_return StopReport{};
  co_await await_end(core);
  co_return core->stop_report();
}

inline asio::awaitable<ReapReport> WorkerCore::await_reap(std::shared_ptr<WorkerCore> core) {
  if (!core) co_return ReapReport{};
  const asio::any_io_executor executor = co_await asio::this_coro::executor;
  std::shared_ptr<Child> child;
  {
    const auto held = core->lock();
    child = core->child_;
  }
  if (child) co_await AsyncEvent::wait(child->settled());
  if (child && child->refused()) throw_refused_kill(child->refused());
  co_await await_conclusion(core, executor, false);
  if (core->events_) co_await EventSink::all_told(core->events_, core->patience_with_handlers(executor));
  const auto held = core->lock();  // it may have been spawned meanwhile
  co_return core->child_ ? core->child_->report() : ReapReport{};
}

inline void WorkerCore::abandon() noexcept {
  {
    const auto held = lock();
    if (!child_ && phase_ == Phase::starting) stop_.ask(Clock::now(), Duration::zero());
  }
  drop(aborted);
  to_executor_->close();
  std::shared_ptr<Resident> self;
  const auto& home = dispatcher_->home();
  const auto at_home = home->lock();
  self = home->move_out(*this);
}

inline std::string WorkerCore::describe() const {
  std::string text = "worker '" + options_.name + "'";
  if (child_) text += " (" + std::to_string(child_->pid()) + ")";
  return text;
}

inline void WorkerCore::send_cancel(std::uint64_t call) {
  FrameHeader header;
  header.type = FrameType::cancel;
  header.id = call;
  queue_control(header);
}

inline void WorkerCore::kill_worker() {
  if (!child_ || !child_->running()) return;
  try {
    child_->kill_leader();
    // Behind a wrapper the worker is another process.
    if (greeted_by_ && *greeted_by_ != child_->pid()) kill_descendant(*greeted_by_, child_->pid());
  } catch (const std::system_error&) {  // refused, as by a set-user-ID program: it keeps its place and works on
    return;
  }
  expected_end_ = killed_for_a_call_ = true;
  lane_.close();  // an answer that it may yet have given frees no place
  emit(Event::Kind::kill_sent);
}

template <class Fill>
void WorkerCore::emit_of(pid_t pid, Event::Kind kind, Fill fill) {
  if (!events_) return;
  auto event = event_reserve_.take();
  event.front().kind = kind;
  event.front().pid = pid;
  fill(event.front());
  events_->tell(std::move(event));
}

}}}  // namespace drover::v1::detail
