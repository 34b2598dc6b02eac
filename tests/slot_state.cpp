// Which workers a slot of a pool has, as data: the effect of each event in each state, and random sequences.
#include <cstddef>
#include <functional>
#include <gtest/gtest.h>
#include <random>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include <drover/pool/detail/slot_state.hpp>

namespace {

using namespace std::chrono_literals;
using drover::Clock;
using drover::RestartPolicy;
using drover::detail::SlotState;
using Actions = SlotState::Actions;
using Successor = SlotState::Successor;
using Worker = SlotState::Worker;

constexpr Clock::time_point now{1000s};
const RestartPolicy policy{.max_restarts = 1, .within = 10s, .backoff = 50ms, .max_backoff = 1s};

// ---- the table ------------------------------------------------------------------------------------------------------

std::string describe(const SlotState& slot) {
  std::string text;
  switch (slot.worker()) {
    case Worker::none: text = "none"; break;
    case Worker::starting: text = "starting"; break;
    case Worker::ready: text = "ready"; break;
    case Worker::leaving: text = "leaving"; break;
  }
  if (slot.successor() == Successor::waiting) text += "+waiting";
  if (slot.successor() == Successor::starting) text += "+successor";
  if (slot.down()) text += " down";
  if (slot.closed()) text += " closed";
  return text;
}

std::string describe(const Actions& actions) {
  std::string text;
  const auto add = [&](bool wanted, const std::string& word) {
    if (wanted) text += " " + word;
  };
  add(actions.recovered, "recovered");
  add(actions.gave_up, "gave_up");
  add(actions.restarting, "restarting");
  if (actions.start_in)
    add(true,
        "start_in_" + std::to_string(std::chrono::duration_cast<std::chrono::milliseconds>(*actions.start_in).count()));
  add(actions.ask_for_turn, "ask_for_turn");
  add(actions.start_successor, "start_successor");
  add(actions.promote, "promote");
  add(actions.retire, "retire");
  add(actions.drop_successor, "drop_successor");
  add(actions.end_turn, "end_turn");
  add(actions.prove, "prove");
  return text;
}

using Event = std::function<Actions(SlotState&)>;

Actions launch(SlotState& slot) {
  slot.launched();
  return {};
}

const std::vector<std::pair<std::string, Event>> events{
    {"launched", launch},
    {"worker_ready", [](SlotState& slot) { return slot.worker_ready(); }},
    {"worker_answered", [](SlotState& slot) { return slot.worker_answered(); }},
    {"lived", [](SlotState& slot) { return slot.lived(); }},
    {"worker_leaves", [](SlotState& slot) { return slot.worker_leaves(now, true); }},
    {"worker_crashes", [](SlotState& slot) { return slot.worker_exited(now, {}); }},
    {"served_worker_crashes", [](SlotState& slot) { return slot.worker_exited(now, {.served = true}); }},
    {"start_failed", [](SlotState& slot) { return slot.start_failed(now); }},
    {"replace", [](SlotState& slot) { return slot.replace(); }},
    {"keep_worker", [](SlotState& slot) { return slot.keep_worker(); }},
    {"turn_came", [](SlotState& slot) { return slot.turn_came(); }},
    {"successor_ready", [](SlotState& slot) { return slot.successor_ready(); }},
    {"successor_exited", [](SlotState& slot) { return slot.successor_exited(now); }},
    {"predecessor_exited", [](SlotState& slot) { return slot.predecessor_exited(now, false); }},
    {"planned_predecessor_exited", [](SlotState& slot) { return slot.predecessor_exited(now, true); }},
    {"close", [](SlotState& slot) { return slot.close(); }}};

const Event& event(const std::string& name) {
  for (const auto& [known, event] : events)
    if (known == name) return event;
  throw std::logic_error("no event " + name);
}

/// A slot after these events, separated by blanks.
SlotState slot_after(const std::string& names) {
  SlotState slot(policy);
  std::istringstream words(names);
  for (std::string name; words >> name;) event(name)(slot);
  return slot;
}

struct Row {
  std::string state, reached_by;
  std::vector<std::string> effects;  // of each event, in the order of `events`: the next state, and the actions
};

const std::vector<Row> table{{"none",
                              "",
                              {/* launched */ "starting:",
                               /* worker_ready */ "none:",
                               /* worker_answered */ "none:",
                               /* lived */ "none:",
                               /* worker_leaves */ "none:",
                               /* worker_crashes */ "none:",
                               /* served_worker_crashes */ "none:",
                               /* start_failed */ "none: restarting start_in_50",
                               /* replace */ "none: start_in_0",
                               /* keep_worker */ "none:",
                               /* turn_came */ "none: end_turn",
                               /* successor_ready */ "none:",
                               /* successor_exited */ "none:",
                               /* predecessor_exited */ "none:",
                               /* planned_predecessor_exited */ "none: end_turn",
                               /* close */ "none closed:"}},
                             {"starting",
                              "launched",
                              {/* launched */ "starting:",
                               /* worker_ready */ "ready:",
                               /* worker_answered */ "starting:",
                               /* lived */ "starting:",
                               /* worker_leaves */ "starting:",
                               /* worker_crashes */ "none: restarting start_in_50",
                               /* served_worker_crashes */ "none: restarting start_in_50",
                               /* start_failed */ "none: restarting start_in_50",
                               /* replace */ "starting+waiting: ask_for_turn",
                               /* keep_worker */ "starting:",
                               /* turn_came */ "starting: end_turn",
                               /* successor_ready */ "starting:",
                               /* successor_exited */ "starting:",
                               /* predecessor_exited */ "starting:",
                               /* planned_predecessor_exited */ "starting: end_turn",
                               /* close */ "starting closed: retire"}},
                             {"ready",
                              "launched worker_ready",
                              {/* launched */ "ready:",
                               /* worker_ready */ "ready:",
                               /* worker_answered */ "ready:",
                               /* lived */ "ready:",
                               /* worker_leaves */ "leaving: restarting start_in_0",
                               /* worker_crashes */ "none: restarting start_in_50",
                               /* served_worker_crashes */ "none: restarting start_in_50",
                               /* start_failed */ "ready:",
                               /* replace */ "ready+waiting: ask_for_turn",
                               /* keep_worker */ "ready:",
                               /* turn_came */ "ready: end_turn",
                               /* successor_ready */ "ready:",
                               /* successor_exited */ "ready:",
                               /* predecessor_exited */ "ready:",
                               /* planned_predecessor_exited */ "ready: end_turn",
                               /* close */ "ready closed: retire"}},
                             {"leaving",
                              "launched worker_ready worker_leaves",
                              {/* launched */ "starting:",
                               /* worker_ready */ "leaving:",
                               /* worker_answered */ "leaving:",
                               /* lived */ "leaving:",
                               /* worker_leaves */ "leaving:",
                               /* worker_crashes */ "none:",
                               /* served_worker_crashes */ "none:",
                               /* start_failed */ "leaving: restarting start_in_50",
                               /* replace */ "leaving:",
                               /* keep_worker */ "leaving:",
                               /* turn_came */ "leaving: end_turn",
                               /* successor_ready */ "leaving:",
                               /* successor_exited */ "leaving:",
                               /* predecessor_exited */ "leaving:",
                               /* planned_predecessor_exited */ "leaving: end_turn",
                               /* close */ "leaving closed: retire"}},
                             {"leaving behind another leaver",
                              "launched worker_ready worker_leaves launched worker_ready worker_leaves",
                              {/* launched */ "leaving:",
                               /* worker_ready */ "leaving:",
                               /* worker_answered */ "leaving:",
                               /* lived */ "leaving:",
                               /* worker_leaves */ "leaving:",
                               /* worker_crashes */ "none: restarting start_in_50",
                               /* served_worker_crashes */ "none: restarting start_in_50",
                               /* start_failed */ "leaving:",
                               /* replace */ "leaving:",
                               /* keep_worker */ "leaving:",
                               /* turn_came */ "leaving: end_turn",
                               /* successor_ready */ "leaving:",
                               /* successor_exited */ "leaving:",
                               /* predecessor_exited */ "leaving: restarting start_in_0",
                               /* planned_predecessor_exited */ "leaving: end_turn",
                               /* close */ "leaving closed: retire"}},
                             {"ready beside a leaver",
                              "launched worker_ready worker_leaves launched worker_ready",
                              {/* launched */ "ready:",
                               /* worker_ready */ "ready:",
                               /* worker_answered */ "ready:",
                               /* lived */ "ready:",
                               /* worker_leaves */ "leaving:",
                               /* worker_crashes */ "none: restarting start_in_50",
                               /* served_worker_crashes */ "none: restarting start_in_50",
                               /* start_failed */ "ready:",
                               /* replace */ "ready+waiting: ask_for_turn",
                               /* keep_worker */ "ready:",
                               /* turn_came */ "ready: end_turn",
                               /* successor_ready */ "ready:",
                               /* successor_exited */ "ready:",
                               /* predecessor_exited */ "ready:",
                               /* planned_predecessor_exited */ "ready: end_turn",
                               /* close */ "ready closed: retire"}},
                             {"starting, planned",
                              "launched replace",
                              {/* launched */ "starting+waiting:",
                               /* worker_ready */ "ready+waiting:",
                               /* worker_answered */ "starting+waiting:",
                               /* lived */ "starting+waiting:",
                               /* worker_leaves */ "starting+waiting:",
                               /* worker_crashes */ "none: restarting start_in_50 end_turn",
                               /* served_worker_crashes */ "none: restarting start_in_50 end_turn",
                               /* start_failed */ "none: restarting start_in_50 end_turn",
                               /* replace */ "starting+waiting:",
                               /* keep_worker */ "starting: end_turn",
                               /* turn_came */ "starting+successor: start_successor",
                               /* successor_ready */ "starting+waiting:",
                               /* successor_exited */ "starting+waiting:",
                               /* predecessor_exited */ "starting+waiting:",
                               /* planned_predecessor_exited */ "starting+waiting: end_turn",
                               /* close */ "starting closed: retire end_turn"}},
                             {"ready, planned",
                              "launched worker_ready replace",
                              {/* launched */ "ready+waiting:",
                               /* worker_ready */ "ready+waiting:",
                               /* worker_answered */ "ready+waiting:",
                               /* lived */ "ready+waiting:",
                               /* worker_leaves */ "leaving: restarting start_in_0 end_turn",
                               /* worker_crashes */ "none: restarting start_in_50 end_turn",
                               /* served_worker_crashes */ "none: restarting start_in_50 end_turn",
                               /* start_failed */ "ready+waiting:",
                               /* replace */ "ready+waiting:",
                               /* keep_worker */ "ready: end_turn",
                               /* turn_came */ "ready+successor: start_successor",
                               /* successor_ready */ "ready+waiting:",
                               /* successor_exited */ "ready+waiting:",
                               /* predecessor_exited */ "ready+waiting:",
                               /* planned_predecessor_exited */ "ready+waiting: end_turn",
                               /* close */ "ready closed: retire end_turn"}},
                             {"starting, with successor",
                              "launched replace turn_came",
                              {/* launched */ "starting+successor:",
                               /* worker_ready */ "ready+successor:",
                               /* worker_answered */ "starting+successor:",
                               /* lived */ "starting+successor:",
                               /* worker_leaves */ "starting+successor:",
                               /* worker_crashes */ "none+successor:",
                               /* served_worker_crashes */ "none+successor:",
                               /* start_failed */ "none+successor:",
                               /* replace */ "starting+successor:",
                               /* keep_worker */ "starting+successor: drop_successor",
                               /* turn_came */ "starting+successor: end_turn",
                               /* successor_ready */ "ready: promote retire",
                               /* successor_exited */ "starting: end_turn",
                               /* predecessor_exited */ "starting+successor:",
                               /* planned_predecessor_exited */ "starting+successor: end_turn",
                               /* close */ "starting+successor closed: retire drop_successor"}},
                             {"ready, with successor",
                              "launched worker_ready replace turn_came",
                              {/* launched */ "ready+successor:",
                               /* worker_ready */ "ready+successor:",
                               /* worker_answered */ "ready+successor:",
                               /* lived */ "ready+successor:",
                               /* worker_leaves */ "leaving+successor:",
                               /* worker_crashes */ "none+successor:",
                               /* served_worker_crashes */ "none+successor:",
                               /* start_failed */ "ready+successor:",
                               /* replace */ "ready+successor:",
                               /* keep_worker */ "ready+successor: drop_successor",
                               /* turn_came */ "ready+successor: end_turn",
                               /* successor_ready */ "ready: promote retire",
                               /* successor_exited */ "ready: end_turn",
                               /* predecessor_exited */ "ready+successor:",
                               /* planned_predecessor_exited */ "ready+successor: end_turn",
                               /* close */ "ready+successor closed: retire drop_successor"}},
                             {"none, with successor",
                              "launched worker_ready replace turn_came worker_crashes",
                              {/* launched */ "none+successor:",
                               /* worker_ready */ "none+successor:",
                               /* worker_answered */ "none+successor:",
                               /* lived */ "none+successor:",
                               /* worker_leaves */ "none+successor:",
                               /* worker_crashes */ "none+successor:",
                               /* served_worker_crashes */ "none+successor:",
                               /* start_failed */ "none+successor:",
                               /* replace */ "none+successor:",
                               /* keep_worker */ "none+successor:",
                               /* turn_came */ "none+successor: end_turn",
                               /* successor_ready */ "ready: promote end_turn",
                               /* successor_exited */ "none down: gave_up restarting start_in_1000 end_turn",
                               /* predecessor_exited */ "none+successor:",
                               /* planned_predecessor_exited */ "none+successor: end_turn",
                               /* close */ "none+successor closed: drop_successor"}},
                             {"leaving, with successor",
                              "launched worker_ready replace turn_came worker_leaves",
                              {/* launched */ "leaving+successor:",
                               /* worker_ready */ "leaving+successor:",
                               /* worker_answered */ "leaving+successor:",
                               /* lived */ "leaving+successor:",
                               /* worker_leaves */ "leaving+successor:",
                               /* worker_crashes */ "none+successor:",
                               /* served_worker_crashes */ "none+successor:",
                               /* start_failed */ "leaving+successor:",
                               /* replace */ "leaving+successor:",
                               /* keep_worker */ "leaving+successor: drop_successor",
                               /* turn_came */ "leaving+successor: end_turn",
                               /* successor_ready */ "ready: promote end_turn",
                               /* successor_exited */ "leaving: restarting start_in_0 end_turn",
                               /* predecessor_exited */ "leaving+successor:",
                               /* planned_predecessor_exited */ "leaving+successor: end_turn",
                               /* close */ "leaving+successor closed: retire drop_successor"}},
                             {"ready, predecessor drains",
                              "launched worker_ready replace turn_came successor_ready",
                              {/* launched */ "ready:",
                               /* worker_ready */ "ready:",
                               /* worker_answered */ "ready:",
                               /* lived */ "ready:",
                               /* worker_leaves */ "leaving: restarting start_in_0",
                               /* worker_crashes */ "none: restarting start_in_50",
                               /* served_worker_crashes */ "none: restarting start_in_50",
                               /* start_failed */ "ready:",
                               /* replace */ "ready+waiting: ask_for_turn",
                               /* keep_worker */ "ready:",
                               /* turn_came */ "ready: end_turn",
                               /* successor_ready */ "ready:",
                               /* successor_exited */ "ready:",
                               /* predecessor_exited */ "ready:",
                               /* planned_predecessor_exited */ "ready: end_turn",
                               /* close */ "ready closed: retire"}},
                             {"given up",
                              "launched worker_crashes launched worker_crashes",
                              {/* launched */ "starting down:",
                               /* worker_ready */ "none down:",
                               /* worker_answered */ "none down:",
                               /* lived */ "none down:",
                               /* worker_leaves */ "none down:",
                               /* worker_crashes */ "none down:",
                               /* served_worker_crashes */ "none down:",
                               /* start_failed */ "none down: restarting start_in_1000",
                               /* replace */ "none down: start_in_0",
                               /* keep_worker */ "none down:",
                               /* turn_came */ "none down: end_turn",
                               /* successor_ready */ "none down:",
                               /* successor_exited */ "none down:",
                               /* predecessor_exited */ "none down:",
                               /* planned_predecessor_exited */ "none down: end_turn",
                               /* close */ "none down closed:"}},
                             {"given up, starting",
                              "launched worker_crashes launched worker_crashes launched",
                              {/* launched */ "starting down:",
                               /* worker_ready */ "ready: prove",
                               /* worker_answered */ "starting down:",
                               /* lived */ "starting down:",
                               /* worker_leaves */ "starting down:",
                               /* worker_crashes */ "none down: restarting start_in_1000",
                               /* served_worker_crashes */ "none: restarting start_in_50",
                               /* start_failed */ "none down: restarting start_in_1000",
                               /* replace */ "starting+waiting down: ask_for_turn",
                               /* keep_worker */ "starting down:",
                               /* turn_came */ "starting down: end_turn",
                               /* successor_ready */ "starting down:",
                               /* successor_exited */ "starting down:",
                               /* predecessor_exited */ "starting down:",
                               /* planned_predecessor_exited */ "starting down: end_turn",
                               /* close */ "starting down closed: retire"}},
                             {"given up, ready",
                              "launched worker_crashes launched worker_crashes launched worker_ready",
                              {/* launched */ "ready:",
                               /* worker_ready */ "ready:",
                               /* worker_answered */ "ready: recovered",
                               /* lived */ "ready: recovered",
                               /* worker_leaves */ "leaving:",
                               /* worker_crashes */ "none down: restarting start_in_1000",
                               /* served_worker_crashes */ "none: restarting start_in_50",
                               /* start_failed */ "ready:",
                               /* replace */ "ready+waiting: ask_for_turn",
                               /* keep_worker */ "ready:",
                               /* turn_came */ "ready: end_turn",
                               /* successor_ready */ "ready:",
                               /* successor_exited */ "ready:",
                               /* predecessor_exited */ "ready:",
                               /* planned_predecessor_exited */ "ready: end_turn",
                               /* close */ "ready closed: retire"}},
                             {"given up, leaving",
                              "launched worker_crashes launched worker_crashes launched worker_ready worker_leaves",
                              {/* launched */ "leaving:",
                               /* worker_ready */ "leaving:",
                               /* worker_answered */ "leaving: recovered",
                               /* lived */ "leaving: recovered",
                               /* worker_leaves */ "leaving:",
                               /* worker_crashes */ "none down: restarting start_in_1000",
                               /* served_worker_crashes */ "none: restarting start_in_50",
                               /* start_failed */ "leaving:",
                               /* replace */ "leaving:",
                               /* keep_worker */ "leaving:",
                               /* turn_came */ "leaving: end_turn",
                               /* successor_ready */ "leaving:",
                               /* successor_exited */ "leaving:",
                               /* predecessor_exited */ "leaving:",
                               /* planned_predecessor_exited */ "leaving: end_turn",
                               /* close */ "leaving closed: retire"}},
                             {"closed with a worker",
                              "launched worker_ready close",
                              {/* launched */ "ready closed:",
                               /* worker_ready */ "ready closed:",
                               /* worker_answered */ "ready closed:",
                               /* lived */ "ready closed:",
                               /* worker_leaves */ "leaving closed:",
                               /* worker_crashes */ "none closed:",
                               /* served_worker_crashes */ "none closed:",
                               /* start_failed */ "ready closed:",
                               /* replace */ "ready closed:",
                               /* keep_worker */ "ready closed:",
                               /* turn_came */ "ready closed: end_turn",
                               /* successor_ready */ "ready closed:",
                               /* successor_exited */ "ready closed:",
                               /* predecessor_exited */ "ready closed:",
                               /* planned_predecessor_exited */ "ready closed: end_turn",
                               /* close */ "ready closed:"}},
                             {"closed without a worker",
                              "close",
                              {/* launched */ "none closed:",
                               /* worker_ready */ "none closed:",
                               /* worker_answered */ "none closed:",
                               /* lived */ "none closed:",
                               /* worker_leaves */ "none closed:",
                               /* worker_crashes */ "none closed:",
                               /* served_worker_crashes */ "none closed:",
                               /* start_failed */ "none closed:",
                               /* replace */ "none closed:",
                               /* keep_worker */ "none closed:",
                               /* turn_came */ "none closed: end_turn",
                               /* successor_ready */ "none closed:",
                               /* successor_exited */ "none closed:",
                               /* predecessor_exited */ "none closed:",
                               /* planned_predecessor_exited */ "none closed: end_turn",
                               /* close */ "none closed:"}}};

TEST(SlotState, EachEventInEachStateHasThisEffect) {
  for (const Row& row : table) {
    ASSERT_EQ(row.effects.size(), events.size()) << row.state;
    for (std::size_t i = 0; i < events.size(); ++i) {
      SlotState slot = slot_after(row.reached_by);
      const Actions actions = events[i].second(slot);
      EXPECT_EQ(describe(slot) + ":" + describe(actions), row.effects[i]) << row.state << ", " << events[i].first;
    }
  }
}

}  // namespace
