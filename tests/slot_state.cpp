// Which workers a slot of a pool has, as data: the effect of each event in each state.
#include <cstddef>
#include <functional>
#include <gtest/gtest.h>
#include <map>
#include <sstream>
#include <stdexcept>
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
  if (actions.replace_in)
    add(true, "replace_in_" +
                  std::to_string(std::chrono::duration_cast<std::chrono::milliseconds>(*actions.replace_in).count()));
  add(actions.ask_for_turn, "ask_for_turn");
  add(actions.start_successor, "start_successor");
  add(actions.promote, "promote");
  add(actions.retire, "retire");
  add(actions.drop_successor, "drop_successor");
  add(actions.withdraw, "withdraw");
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
    {"replace", [](SlotState& slot) { return slot.replace(false); }},
    {"recycle", [](SlotState& slot) { return slot.replace(true); }},
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
  std::string state, reached_by, description;
  std::map<std::string, std::string> effects;  // of an event: the next state, and the actions. Other events have none
};

const std::vector<Row> table{
    {"none",
     "",
     "none",
     {{"launched", "starting:"},
      {"start_failed", "none: restarting start_in_50"},
      {"replace", "none: start_in_0"},
      {"turn_came", "none: end_turn"},
      {"planned_predecessor_exited", "none: end_turn"},
      {"close", "none closed:"}}},
    {"starting",
     "launched",
     "starting",
     {{"worker_ready", "ready:"},
      {"worker_crashes", "none: restarting start_in_50"},
      {"served_worker_crashes", "none: restarting start_in_50"},
      {"start_failed", "none: restarting start_in_50"},
      {"replace", "starting+waiting: ask_for_turn"},
      {"recycle", "starting+waiting: ask_for_turn"},
      {"turn_came", "starting: end_turn"},
      {"planned_predecessor_exited", "starting: end_turn"},
      {"close", "starting closed: retire"}}},
    {"ready",
     "launched worker_ready",
     "ready",
     {{"worker_leaves", "leaving: restarting start_in_0"},
      {"worker_crashes", "none: restarting start_in_50"},
      {"served_worker_crashes", "none: restarting start_in_50"},
      {"replace", "ready+waiting: ask_for_turn"},
      {"recycle", "ready+waiting: ask_for_turn"},
      {"turn_came", "ready: end_turn"},
      {"planned_predecessor_exited", "ready: end_turn"},
      {"close", "ready closed: retire"}}},
    {"leaving",
     "launched worker_ready worker_leaves",
     "leaving",
     {{"launched", "starting:"},
      {"worker_crashes", "none:"},
      {"served_worker_crashes", "none:"},
      {"start_failed", "leaving: restarting start_in_50"},
      {"turn_came", "leaving: end_turn"},
      {"planned_predecessor_exited", "leaving: end_turn"},
      {"close", "leaving closed: retire"}}},
    {"leaving behind another leaver",
     "launched worker_ready worker_leaves launched worker_ready worker_leaves",
     "leaving",
     {{"worker_crashes", "none: restarting start_in_50"},
      {"served_worker_crashes", "none: restarting start_in_50"},
      {"turn_came", "leaving: end_turn"},
      {"predecessor_exited", "leaving: restarting start_in_0"},
      {"planned_predecessor_exited", "leaving: end_turn"},
      {"close", "leaving closed: retire"}}},
    {"ready beside a leaver",
     "launched worker_ready worker_leaves launched worker_ready",
     "ready",
     {{"worker_leaves", "leaving:"},
      {"worker_crashes", "none: restarting start_in_50"},
      {"served_worker_crashes", "none: restarting start_in_50"},
      {"replace", "ready+waiting: ask_for_turn"},
      {"recycle", "ready+waiting: ask_for_turn"},
      {"turn_came", "ready: end_turn"},
      {"planned_predecessor_exited", "ready: end_turn"},
      {"close", "ready closed: retire"}}},
    {"starting, planned",
     "launched replace",
     "starting+waiting",
     {{"worker_ready", "ready+waiting:"},
      {"worker_crashes", "none: restarting start_in_50 withdraw"},
      {"served_worker_crashes", "none: restarting start_in_50 withdraw"},
      {"start_failed", "none: restarting start_in_50 withdraw"},
      {"keep_worker", "starting: withdraw"},
      {"turn_came", "starting+successor: start_successor"},
      {"planned_predecessor_exited", "starting+waiting: end_turn"},
      {"close", "starting closed: retire withdraw"}}},
    {"ready, planned",
     "launched worker_ready replace",
     "ready+waiting",
     {{"worker_leaves", "leaving: restarting start_in_0 withdraw"},
      {"worker_crashes", "none: restarting start_in_50 withdraw"},
      {"served_worker_crashes", "none: restarting start_in_50 withdraw"},
      {"keep_worker", "ready: withdraw"},
      {"turn_came", "ready+successor: start_successor"},
      {"planned_predecessor_exited", "ready+waiting: end_turn"},
      {"close", "ready closed: retire withdraw"}}},
    {"starting, with successor",
     "launched replace turn_came",
     "starting+successor",
     {{"worker_ready", "ready+successor:"},
      {"worker_crashes", "none+successor:"},
      {"served_worker_crashes", "none+successor:"},
      {"start_failed", "none+successor:"},
      {"keep_worker", "starting+successor: drop_successor"},
      {"turn_came", "starting+successor: end_turn"},
      {"successor_ready", "ready: promote retire"},
      {"successor_exited", "starting: end_turn"},
      {"planned_predecessor_exited", "starting+successor: end_turn"},
      {"close", "starting+successor closed: retire drop_successor"}}},
    {"ready, with successor",
     "launched worker_ready replace turn_came",
     "ready+successor",
     {{"worker_leaves", "leaving+successor:"},
      {"worker_crashes", "none+successor:"},
      {"served_worker_crashes", "none+successor:"},
      {"keep_worker", "ready+successor: drop_successor"},
      {"turn_came", "ready+successor: end_turn"},
      {"successor_ready", "ready: promote retire"},
      {"successor_exited", "ready: end_turn"},
      {"planned_predecessor_exited", "ready+successor: end_turn"},
      {"close", "ready+successor closed: retire drop_successor"}}},
    {"none, with successor",
     "launched worker_ready replace turn_came worker_crashes",
     "none+successor",
     {{"turn_came", "none+successor: end_turn"},
      {"successor_ready", "ready: promote end_turn"},
      {"successor_exited", "none down: gave_up restarting start_in_1000 end_turn"},
      {"planned_predecessor_exited", "none+successor: end_turn"},
      {"close", "none+successor closed: drop_successor"}}},
    {"leaving, with successor",
     "launched worker_ready replace turn_came worker_leaves",
     "leaving+successor",
     {{"worker_crashes", "none+successor:"},
      {"served_worker_crashes", "none+successor:"},
      {"keep_worker", "leaving+successor: drop_successor"},
      {"turn_came", "leaving+successor: end_turn"},
      {"successor_ready", "ready: promote retire"},
      {"successor_exited", "leaving: restarting start_in_0 end_turn"},
      {"planned_predecessor_exited", "leaving+successor: end_turn"},
      {"close", "leaving+successor closed: retire drop_successor"}}},
    {"ready, predecessor drains",
     "launched worker_ready replace turn_came successor_ready",
     "ready",
     {{"worker_leaves", "leaving: restarting start_in_0"},
      {"worker_crashes", "none: restarting start_in_50"},
      {"served_worker_crashes", "none: restarting start_in_50"},
      {"replace", "ready+waiting: ask_for_turn"},
      {"recycle", "ready+waiting: ask_for_turn"},
      {"turn_came", "ready: end_turn"},
      {"planned_predecessor_exited", "ready: end_turn"},
      {"close", "ready closed: retire"}}},
    {"given up",
     "launched worker_crashes launched worker_crashes",
     "none down",
     {{"launched", "starting down:"},
      {"start_failed", "none down: restarting start_in_1000"},
      {"replace", "none down: start_in_0"},
      {"turn_came", "none down: end_turn"},
      {"planned_predecessor_exited", "none down: end_turn"},
      {"close", "none down closed:"}}},
    {"given up, starting",
     "launched worker_crashes launched worker_crashes launched",
     "starting down",
     {{"worker_ready", "ready: prove"},
      {"worker_crashes", "none down: restarting start_in_1000"},
      {"served_worker_crashes", "none: restarting start_in_50"},
      {"start_failed", "none down: restarting start_in_1000"},
      {"replace", "starting+waiting down: ask_for_turn"},
      {"recycle", "starting+waiting down: ask_for_turn"},
      {"turn_came", "starting down: end_turn"},
      {"planned_predecessor_exited", "starting down: end_turn"},
      {"close", "starting down closed: retire"}}},
    {"given up, ready",
     "launched worker_crashes launched worker_crashes launched worker_ready",
     "ready",
     {{"worker_answered", "ready: recovered"},
      {"lived", "ready: recovered"},
      {"worker_leaves", "leaving:"},
      {"worker_crashes", "none down: restarting start_in_1000"},
      {"served_worker_crashes", "none: restarting start_in_50"},
      {"replace", "ready+waiting: ask_for_turn"},
      {"recycle", "ready+waiting: ask_for_turn"},
      {"turn_came", "ready: end_turn"},
      {"planned_predecessor_exited", "ready: end_turn"},
      {"close", "ready closed: retire"}}},
    {"given up, leaving",
     "launched worker_crashes launched worker_crashes launched worker_ready worker_leaves",
     "leaving",
     {{"worker_answered", "leaving: recovered"},
      {"lived", "leaving: recovered"},
      {"worker_crashes", "none down: restarting start_in_1000"},
      {"served_worker_crashes", "none: restarting start_in_50"},
      {"turn_came", "leaving: end_turn"},
      {"planned_predecessor_exited", "leaving: end_turn"},
      {"close", "leaving closed: retire"}}},
    {"closed with a worker",
     "launched worker_ready close",
     "ready closed",
     {{"worker_leaves", "leaving closed:"},
      {"worker_crashes", "none closed:"},
      {"served_worker_crashes", "none closed:"},
      {"turn_came", "ready closed: end_turn"},
      {"planned_predecessor_exited", "ready closed: end_turn"}}},
    {"closed without a worker",
     "close",
     "none closed",
     {{"turn_came", "none closed: end_turn"}, {"planned_predecessor_exited", "none closed: end_turn"}}},
    {"ready, recycled with successor",
     "launched worker_ready recycle turn_came",
     "ready+successor",
     {{"worker_leaves", "leaving+successor:"},
      {"worker_crashes", "none+successor:"},
      {"served_worker_crashes", "none+successor:"},
      {"keep_worker", "ready+successor: drop_successor"},
      {"turn_came", "ready+successor: end_turn"},
      {"successor_ready", "ready: promote retire"},
      {"successor_exited", "ready: replace_in_1000 end_turn"},
      {"planned_predecessor_exited", "ready+successor: end_turn"},
      {"close", "ready+successor closed: retire drop_successor"}}},
    {"starting, recycled with successor",
     "launched recycle turn_came",
     "starting+successor",
     {{"worker_ready", "ready+successor:"},
      {"worker_crashes", "none+successor:"},
      {"served_worker_crashes", "none+successor:"},
      {"start_failed", "none+successor:"},
      {"keep_worker", "starting+successor: drop_successor"},
      {"turn_came", "starting+successor: end_turn"},
      {"successor_ready", "ready: promote retire"},
      {"successor_exited", "starting: replace_in_1000 end_turn"},
      {"planned_predecessor_exited", "starting+successor: end_turn"},
      {"close", "starting+successor closed: retire drop_successor"}}},
    {"ready, planned, then recycled",
     "launched worker_ready replace recycle",
     "ready+waiting",
     {{"worker_leaves", "leaving: restarting start_in_0 withdraw"},
      {"worker_crashes", "none: restarting start_in_50 withdraw"},
      {"served_worker_crashes", "none: restarting start_in_50 withdraw"},
      {"turn_came", "ready+successor: start_successor"},
      {"planned_predecessor_exited", "ready+waiting: end_turn"},
      {"close", "ready closed: retire withdraw"}}},
    {"none, with successor, recycled",
     "launched worker_ready recycle turn_came worker_crashes",
     "none+successor",
     {{"turn_came", "none+successor: end_turn"},
      {"successor_ready", "ready: promote end_turn"},
      {"successor_exited", "none down: gave_up restarting start_in_1000 end_turn"},
      {"planned_predecessor_exited", "none+successor: end_turn"},
      {"close", "none+successor closed: drop_successor"}}}};

TEST(SlotState, EachEventInEachStateHasThisEffect) {
  for (const Row& row : table) {
    EXPECT_EQ(describe(slot_after(row.reached_by)), row.description) << row.state;
    std::size_t with_effect = 0;
    for (const auto& [name, happens] : events) {
      SlotState slot = slot_after(row.reached_by);
      const Actions actions = happens(slot);
      const auto effect = row.effects.find(name);
      with_effect += effect != row.effects.end();
      EXPECT_EQ(describe(slot) + ":" + describe(actions),
                effect != row.effects.end() ? effect->second : row.description + ":")
          << row.state << ", " << name;
    }
    EXPECT_EQ(with_effect, row.effects.size()) << row.state << ": an effect of an unknown event";
  }
}

}  // namespace
