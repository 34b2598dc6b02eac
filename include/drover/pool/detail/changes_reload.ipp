#pragma once

#include <algorithm>
#include <stdexcept>
#include <utility>

#include <drover/error.hpp>
#include <drover/pool/detail/slots.hpp>

/// reload(), and what all changes share.
namespace drover { inline namespace v1 { namespace detail {

// ---- all changes ----------------------------------------------------------------------------------------------------

inline void PoolChanges::begin_watching() {
  for (std::size_t at = 0; at < slots_.size(); ++at)
    if (!slots_.slot(at)->dormant) begin_age(*slots_.slot(at));
  watch_memory();
}

inline void PoolChanges::worker_ready(Slot& slot) {
  begin_age(slot);
  if (const auto growth = std::exchange(slot.growth, nullptr))
    if (growth->one_is_ready() && growth == growth_ && grows()) end_growth(nullptr);
  advance();
}

inline bool PoolChanges::start_failed(Slot& slot, const Slot::Options& options, const std::exception_ptr& cause) {
  successor_failed(slot, options, cause);
  const auto growth = slot.growth;
  if (!growth || growth != growth_ || !grows()) return false;
  Sessions removed;
  end_growth(cause);
  undo(*growth, removed);
  return slot.removed;
}

inline void PoolChanges::successor_failed(const Slot& slot, const Slot::Options& options,
                                          const std::exception_ptr& cause) noexcept {
  if (reaches(slot) && reloads_.front()->made(options)) end_reload(reloads_.begin(), cause);
}

inline void PoolChanges::advance() {
  std::erase_if(ended_, [](const auto& ended) { return ended->over()->try_set(); });
  if (growth_ && growth_->try_complete_caller() && growth_->ended()) growth_.reset();
  while (!slots_.stopping() && !reloads_.empty()) {
    const auto reload = reloads_.front();
    const bool complete = advance(*reload);
    if (reload->ended()) continue;
    if (!complete) return;
    latest_ = reload->options(*latest_);
    end_reload(reloads_.begin(), nullptr);
    slots_.renew_spares();
  }
}

inline void PoolChanges::end_all(const Cause& cause) noexcept {
  memory_timer_.reset();
  while (!reloads_.empty()) end_reload(reloads_.begin(), failure_of(cause));
  if (grows()) end_growth(failure_of(cause));
}

// ---- reload() -------------------------------------------------------------------------------------------------------

inline std::shared_ptr<Reload> PoolChanges::begin_reload(std::optional<Command> command) {
  if (command && command->program.empty())
    throw std::invalid_argument("the Command for reload() has no program; name one, or call reload() without one");
  const auto reload = std::make_shared<Reload>(std::move(command));
  const auto held = slots_.lock();
  if (!slots_.takes_changes()) slots_.refuse_change();
  reloads_.push_back(reload);
  advance();
  return reload;
}

inline void PoolChanges::cancel(const std::shared_ptr<Reload>& reload) {
  if (slots_.foreign()) return;
  const auto held = slots_.lock();
  const auto found = std::find(reloads_.begin(), reloads_.end(), reload);
  if (found == reloads_.end()) return;
  const std::shared_ptr<Slot> slot =
      reload->slot_begun() && reload->slot() < slots_.size() ? slots_.slot(reload->slot()) : nullptr;
  end_reload(found, aborted());
  if (slot) slots_.carry_out(*slot, slot->state.keep_worker());
  advance();
  slots_.forks().end_unused();
}

/// Workers of slots that the reload has left behind are those of the reload.
inline const Slot::Options& PoolChanges::options_of_a_new_worker(std::size_t slot) {
  const bool behind = !reloads_.empty() && slot < reloads_.front()->slot();
  return behind ? reloads_.front()->options(*latest_) : latest_;
}

/// The reload that is under way replaces the worker of that slot.
inline bool PoolChanges::reaches(const Slot& slot) const noexcept {
  return !reloads_.empty() && reloads_.front()->slot_begun() && reloads_.front()->slot() == slot.at;
}

/// A slot whose worker it has not replaced gets its options back.
inline void PoolChanges::end_reload(Reloads::iterator at, std::exception_ptr failure) noexcept {
  Reload& reload = **at;
  if (failure && reload.slot_begun() && reload.slot() < slots_.size())
    if (const auto& slot = slots_.slot(reload.slot()); !reload.made(slot->session_options))
      slot->options = reload.options_before();
  reload.end(std::move(failure));
  ended_.splice(ended_.end(), reloads_, at);
  std::erase_if(ended_, [](const auto& ended) { return ended->over()->try_set(); });
}

inline void PoolChanges::retired_exited(const Slot& slot, const StopReport& report) noexcept {
  if (reaches(slot) && reloads_.front()->made(slot.session_options)) reloads_.front()->add(report);
}

/// Takes all steps that can be taken now, each of which may end the reload. True if it is complete.
inline bool PoolChanges::advance(Reload& reload) {
  while (reload.slot() < slots_.size()) {
    const std::shared_ptr<Slot> slot = slots_.slot(reload.slot());
    if (slot->dormant) {
      reload.skip_slot();
      continue;
    }
    if (!reload.slot_begun()) {
      reload.begin_slot(slot->options);
      slot->options = reload.options(*latest_);
      slots_.carry_out(*slot, slot->state.replace(false));
    }
    if (reload.ended()) return false;
    const bool is_new = reload.made(slot->session_options);
    if (!is_new && slot->state.worker() != SlotState::Worker::none) slots_.carry_out(*slot, slot->state.replace(false));
    if (reload.ended() || !is_new || slot->state.worker() != SlotState::Worker::ready) return false;
    if (slots_.awaits_exit_in(*slot)) return false;
    reload.end_slot();
  }
  return true;
}

}}}  // namespace drover::v1::detail
