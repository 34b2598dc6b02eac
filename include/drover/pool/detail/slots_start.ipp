#pragma once

#include <new>
#include <utility>

#include <drover/error.hpp>
#include <drover/pool/detail/slots.hpp>

/// How workers are started: all at first, and then one after another. Slots that come and go.
namespace drover { inline namespace v1 { namespace detail {

inline std::shared_ptr<WorkerSession> PoolSlots::make_worker(std::size_t at, WorkerOptions options,
                                                             const Slot::Environment& environment) {
  constexpr std::size_t events_per_replacement = 4;  // gave_up, restarting, recovered, replacing
  events_.reserve(events_per_replacement * (slots_.size() + 1));
  const auto executor = dispatcher_->executor();
  if (!executor) throw Error(Errc::not_running, "the io_context of this pool is destroyed");
  for (const auto& [name, value] : environment) options.command.env[name] = value;
  auto session = WorkerSession::create(*executor, std::move(options), dispatcher_, events_.sink(),
                                       {.takes_calls = at != no_slot, .owns_dispatcher = false});
  session->supervise(weak_from_this(), at);
  session->recycle_after(changes_.answers_of_a_worker(), changes_.rss_limit());
  return session;
}

// ---- at first -------------------------------------------------------------------------------------------------------

inline bool PoolSlots::start_first(std::size_t at) {
  Slot::Environment environment = environment_of(at);
  std::shared_ptr<WorkerSession> session;
  {
    const auto held = lock();
    if (first_start_.failed()) return false;
    const Slot::Options& options = changes_.latest_options();
    session = make_worker(at, *options, environment);
    Slot& slot = slots_.emplace_back(options_.restart, std::move(environment), options);
    slot.session = session;
    slot.session_options = options;
    slot.state.launched();
  }
  session->start(options_.start_timeout);
  return true;
}

inline Slot::Environment PoolSlots::environment_of(std::size_t at) const {
  return options_.slot_env ? options_.slot_env(at) : Slot::Environment();
}

inline std::shared_ptr<AsyncEvent> PoolSlots::await_start_room() {
  const auto held = lock();
  return first_start_.await_room(slots_.size());
}

inline std::exception_ptr PoolSlots::end_start() {
  const auto held = lock();
  changes_.begin_watching();
  std::exception_ptr failure = first_start_.end();
  if (!failure) spares_.fill();
  return failure;
}

// ---- one after another ----------------------------------------------------------------------------------------------

inline void PoolSlots::start_again(std::size_t at) {
  {
    const auto held = lock();
    if (at >= slots_.size()) return;
    slots_[at].timer.reset();
    if (stopping_ || !starts_.begin(at)) return;
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
  }
  if (next) launch(*next);
}

inline void PoolSlots::start_is_over(std::size_t at) noexcept {
  if (starts_.settled(at)) give_turn();
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
      start_is_over(at);
      if (stopping_ || at >= slots_.size()) return;
      totals_.count({}, DeathCause::failed_start);
      Slot& slot = slots_[at];
      const SlotState::Actions actions = slot.state.start_failed(Clock::now());
      fail_if_all_are_down(cause, std::nullopt, dropped);
      if (!changes_.start_failed(at, slot.options, cause)) carry_out(at, actions);
      changes_.advance();
      refusal = dispatcher_->refusal();
    }
    complete_all_with_error(std::move(dropped), refusal);
  }
}

/// Puts a worker into the slot: a spare one that is ready, or a new one, for which a process is to be spawned. Null if
/// none is to be spawned.
inline std::shared_ptr<WorkerSession> PoolSlots::put_worker(std::size_t at) {
  Sessions over;
  std::shared_ptr<WorkerSession> session;
  {
    const auto held = lock();
    give_turn();
    if (stopping_ || at >= slots_.size() || !slots_[at].state.awaits_start()) {
      start_is_over(at);
      return nullptr;
    }
    Slot& slot = slots_[at];
    retired_.reserve(over);
    const bool is_spare = (session = spares_.take(slot.options)) != nullptr;
    if (!is_spare) {
      session = make_worker(at, *slot.options, slot.environment);
      session->begin_start();  // under the mutex: a stop that comes now finds it started
    }
    if (slot.session) retired_.add(slot.session);
    slot.session = session;
    slot.session_options = slot.options;
    slot.recycle_timer.reset();
    slot.state.launched();
    retired_.take_over(over);
    if (!slot.growth) ++totals_.restarts;
    if (is_spare) place_spare(at, *std::exchange(session, nullptr));
  }
  for (const auto& retired : over) retired->owner_destroyed();
  if (!session) dispatcher_->run_completions(true);
  return session;
}

inline void PoolSlots::place_spare(std::size_t at, WorkerSession& spare) {
  try {
    spare.take_slot(at, slots_[at].environment);
    worker_ready(spare);
  } catch (...) {  // no memory: it ends, and is replaced
    spare.drop();
  }
  spares_.fill();
}

// ---- slots that come and go -----------------------------------------------------------------------------------------

inline void PoolSlots::reserve(std::size_t size) {
  starts_.resize(size);
  slots_.reserve(size);
}

inline Slot& PoolSlots::add(Slot::Environment environment, Slot::Options options) {
  return slots_.emplace_back(options_.restart, std::move(environment), std::move(options));
}

inline void PoolSlots::remove_from(std::size_t size, Sessions& removed) {
  const std::size_t most = 2 * (slots_.size() - size);
  retired_.reserve(most);
  removed.reserve(removed.size() + most);
  while (slots_.size() > size) {
    const std::size_t at = slots_.size() - 1;
    Slot& slot = slots_.back();
    const SlotState::Actions actions = slot.state.close();
    if (actions.retire) slot.session->retire(options_.shutdown_grace);
    for (const auto& session : {slot.session, slot.successor}) {
      if (!session) continue;
      removed.push_back(session);
      retired_.add(session);
    }
    carry_out(at, actions);
    successors_.forget(at);
    start_is_over(at);
    slots_.pop_back();
  }
  starts_.resize(size);
  successors_.give_turns();
}

}}}  // namespace drover::v1::detail
