#pragma once

#include <drover/error.hpp>
#include <drover/pool/detail/slots.hpp>

/// How workers are started: all at first, and then one after another.
namespace drover { inline namespace v1 { namespace detail {

inline std::shared_ptr<WorkerSession> PoolSlots::make_worker(std::size_t at, WorkerOptions options,
                                                             const Environment& environment) {
  constexpr std::size_t events_per_replacement = 4;  // gave_up, restarting, recovered, replacing
  events_.reserve(events_per_replacement * (slots_.size() + 1));
  const auto executor = dispatcher_->executor();
  if (!executor) throw Error(Errc::not_running, "the io_context of this pool is destroyed");
  for (const auto& [name, value] : environment) options.command.env[name] = value;
  auto session = WorkerSession::create(*executor, std::move(options), dispatcher_, events_.sink(),
                                       {.takes_calls = true, .owns_dispatcher = false});
  session->supervise(weak_from_this(), at);
  session->recycle_after(jittered(options_.recycle.calls), options_.recycle.rss);
  return session;
}

// ---- at first -------------------------------------------------------------------------------------------------------

inline bool PoolSlots::start_first(std::size_t at) {
  Environment environment = environment_of(at);
  std::shared_ptr<WorkerSession> session;
  {
    const auto held = lock();
    if (first_start_.failed()) return false;
    session = make_worker(at, *latest_options_, environment);
    Slot& slot = slots_.emplace_back(options_.restart);
    slot.environment = std::move(environment);
    slot.session = session;
    slot.options = slot.session_options = latest_options_;
    slot.state.launched();
  }
  session->start(options_.start_timeout);
  return true;
}

inline PoolSlots::Environment PoolSlots::environment_of(std::size_t at) const {
  return options_.slot_env ? options_.slot_env.value()(at) : Environment();
}

inline std::shared_ptr<AsyncEvent> PoolSlots::await_start_room() {
  const auto held = lock();
  return first_start_.await_room(slots_.size());
}

inline std::exception_ptr PoolSlots::end_start() {
  const auto held = lock();
  watch_memory();
  return first_start_.end();
}

// ---- one after another ----------------------------------------------------------------------------------------------

inline void PoolSlots::start_timer(std::unique_ptr<asio::steady_timer>& timer, std::size_t at, Duration delay,
                                   Then then) {
  executor_.after(timer, delay, [weak = weak_from_this(), at, then] {
    if (const auto slots = weak.lock()) (slots.get()->*then)(at);
  });
}

inline void PoolSlots::start_again(std::size_t at) {
  {
    const auto held = lock();
    if (at >= slots_.size()) return;
    Slot& slot = slots_[at];
    slot.timer.reset();
    if (stopping_ || slot.queued) return;
    slot.queued = !starts_.begin(at);
    if (slot.queued) return;
  }
  launch(at);
}

/// Starts the next worker that waits for it, after other handlers have run. If there is no memory for that, the end of
/// the next start tries again.
inline void PoolSlots::give_turn() noexcept {
  const bool posted = executor_.try_post([weak = weak_from_this()] {
    if (const auto slots = weak.lock()) slots->start_next();
  });
  if (!posted) starts_.forgo_turn();
}

inline void PoolSlots::start_next() {
  std::optional<std::size_t> next;
  {
    const auto held = lock();
    next = starts_.next();
    if (stopping_) return;
    if (next) slots_[*next].queued = false;
  }
  if (next) launch(*next);
}

inline void PoolSlots::start_is_over(Slot& slot) noexcept {
  if (std::exchange(slot.counted, false) && starts_.settled()) give_turn();
}

/// A failure before there is a process counts as a death.
inline void PoolSlots::launch(std::size_t at) {
  try {
    if (const auto session = put_worker(at)) session->spawn(options_.start_timeout);
  } catch (...) {
    const auto cause = std::current_exception();
    CallQueue dropped;
    Cause refusal;
    {
      const auto held = lock();
      if (at >= slots_.size()) return;
      Slot& slot = slots_[at];
      start_is_over(slot);
      if (stopping_) return;
      count_death({});
      const SlotState::Actions actions = slot.state.start_failed(Clock::now());
      fail_if_all_are_down(cause, std::nullopt, dropped);
      reload_failed(at, slot.options, cause);
      if (!growth_failed(slot, cause)) carry_out(at, actions);
      advance_reloads();
      refusal = dispatcher_->refusal();
    }
    complete_all_with_error(std::move(dropped), refusal);
  }
}

/// Puts a new worker into the slot, for which a process is to be spawned. Null if none is wanted any more.
inline std::shared_ptr<WorkerSession> PoolSlots::put_worker(std::size_t at) {
  Sessions over;
  std::shared_ptr<WorkerSession> session;
  {
    const auto held = lock();
    if (at >= slots_.size()) return nullptr;
    Slot& slot = slots_[at];
    slot.counted = true;
    give_turn();
    if (stopping_ || !slot.state.awaits_start()) {
      start_is_over(slot);
      return nullptr;
    }
    retired_.reserve(over);
    session = make_worker(at, *slot.options, slot.environment);
    session->begin_start();  // under the mutex: a stop that comes now finds it started
    if (slot.session) retired_.add(slot.session);
    slot.session = session;
    slot.session_options = slot.options;
    slot.recycle_timer.reset();
    slot.state.launched();
    retired_.take_over(over);
    if (!slot.growth) ++restarts_;
  }
  for (const auto& retired : over) retired->owner_destroyed();
  return session;
}

}}}  // namespace drover::v1::detail
