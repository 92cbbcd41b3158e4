//! The desk: agents, their skills, who is busy and which calls wait. Calls and the time go in, answers come out.
//!
//! It never waits, and has no clock of its own.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::agents_v1::{Assignment, Queue, QueueState};

/// Calls that wait per queue. Beyond, whoever waits longest has hung up.
const MOST_WAITING: usize = 1000;

/// All queues, one per skill.
#[derive(Debug)]
pub(crate) struct Desk {
    skills: BTreeMap<String, Skill>,
    longest_call: Duration,
}

#[derive(Debug)]
struct Skill {
    /// Who has been free longest is in front.
    free: VecDeque<String>,
    busy: Vec<Busy>,
    waiting: VecDeque<String>,
}

#[derive(Debug)]
struct Busy {
    agent: String,
    call_id: String,
    until: Instant,
}

impl Desk {
    /// A desk with `agents` agents per skill. `id` goes into their names, to tell them from those of another desk.
    /// An agent whose call nobody ends is free again after `longest_call`.
    pub(crate) fn new(id: &str, skills: &[String], agents: u32, longest_call: Duration) -> Self {
        let skill = |name: &String| {
            let free = (1..=agents).map(|number| format!("{name}-{number:02}.{id}")).collect();
            (name.clone(), Skill { free, busy: Vec::new(), waiting: VecDeque::new() })
        };
        Self { skills: skills.iter().map(skill).collect(), longest_call }
    }

    /// Who takes the call, or its place in the queue. None if nobody has the skill.
    pub(crate) fn assign(&mut self, name: &str, call_id: &str, now: Instant) -> Option<Assignment> {
        let longest_call = self.longest_call;
        let skill = self.skills.get_mut(name)?;
        skill.expire(now, longest_call);
        let agent = match skill.busy.iter().find(|busy| busy.call_id == call_id) {
            Some(busy) => Some(busy.agent.clone()),
            None => skill.take(call_id, now + longest_call),
        };
        let position = if agent.is_some() { 0 } else { skill.enqueue(call_id) };
        Some(Assignment { agent: agent.unwrap_or_default(), queue: name.to_owned(), position })
    }

    /// The agent's call is over. Whoever waits longest comes next.
    pub(crate) fn release(&mut self, agent: &str, now: Instant) {
        let longest_call = self.longest_call;
        for skill in self.skills.values_mut() {
            skill.end(|busy| busy.agent == agent);
            skill.expire(now, longest_call);
        }
    }

    /// Lets time pass: calls that nobody ended are over.
    pub(crate) fn tick(&mut self, now: Instant) {
        let longest_call = self.longest_call;
        for skill in self.skills.values_mut() {
            skill.expire(now, longest_call);
        }
    }

    /// The queues as they are.
    pub(crate) fn state(&self) -> QueueState {
        let length = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        let queue = |(name, skill): (&String, &Skill)| Queue {
            name: name.clone(),
            waiting: length(skill.waiting.len()),
            free_agents: length(skill.free.len()),
            busy_agents: length(skill.busy.len()),
        };
        QueueState { queues: self.skills.iter().map(queue).collect() }
    }

    /// The skills there are.
    pub(crate) fn skills(&self) -> impl Iterator<Item = &str> {
        self.skills.keys().map(String::as_str)
    }
}

impl Skill {
    fn take(&mut self, call_id: &str, until: Instant) -> Option<String> {
        let agent = self.free.pop_front()?;
        self.waiting.retain(|waiting| waiting != call_id);
        self.busy.push(Busy { agent: agent.clone(), call_id: call_id.to_owned(), until });
        Some(agent)
    }

    fn enqueue(&mut self, call_id: &str) -> u32 {
        let index = match self.waiting.iter().position(|waiting| waiting == call_id) {
            Some(index) => index,
            None => {
                if self.waiting.len() == MOST_WAITING {
                    self.waiting.pop_front();
                }
                self.waiting.push_back(call_id.to_owned());
                self.waiting.len() - 1
            }
        };
        u32::try_from(index + 1).unwrap_or(u32::MAX)
    }

    fn end(&mut self, over: impl Fn(&Busy) -> bool) {
        let Self { free, busy, .. } = self;
        busy.retain_mut(|call| {
            let over = over(call);
            if over {
                free.push_back(std::mem::take(&mut call.agent));
            }
            !over
        });
    }

    /// Ends overlong calls and gives free agents to the calls that wait.
    fn expire(&mut self, now: Instant, longest_call: Duration) {
        self.end(|busy| busy.until <= now);
        while !self.free.is_empty()
            && let Some(call_id) = self.waiting.pop_front()
        {
            self.take(&call_id, now + longest_call);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn desk(agents: u32) -> Desk {
        Desk::new("a1", &["billing".to_owned(), "sales".to_owned()], agents, Duration::from_secs(2))
    }

    fn ask(desk: &mut Desk, call: &str, now: Instant) -> (String, u32) {
        let answer = desk.assign("billing", call, now).unwrap();
        (answer.agent, answer.position)
    }

    fn agent(name: &str) -> (String, u32) {
        (name.to_owned(), 0)
    }

    fn place(position: u32) -> (String, u32) {
        (String::new(), position)
    }

    #[test]
    fn calls_wait_when_all_are_busy_and_move_up_when_one_is_released() {
        let (mut desk, now) = (desk(2), Instant::now());
        assert_eq!(ask(&mut desk, "1", now), agent("billing-01.a1"));
        assert_eq!(ask(&mut desk, "2", now), agent("billing-02.a1"));
        assert_eq!(ask(&mut desk, "3", now), place(1));
        assert_eq!(ask(&mut desk, "4", now), place(2));
        desk.release("billing-02.a1", now);
        assert_eq!(ask(&mut desk, "4", now), place(1), "call 3 went to the agent, call 4 moved up");
        assert_eq!(ask(&mut desk, "3", now), agent("billing-02.a1"));
    }

    #[test]
    fn asking_twice_for_a_call_takes_one_agent() {
        let (mut desk, now) = (desk(2), Instant::now());
        assert_eq!(ask(&mut desk, "1", now), agent("billing-01.a1"));
        assert_eq!(ask(&mut desk, "1", now), agent("billing-01.a1"));
        assert_eq!(desk.state().queues[0].free_agents, 1);
    }

    #[test]
    fn an_agent_whom_nobody_releases_is_free_in_the_end() {
        let (mut desk, now) = (desk(1), Instant::now());
        assert_eq!(ask(&mut desk, "1", now), agent("billing-01.a1"));
        desk.tick(now + Duration::from_secs(1));
        assert_eq!(desk.state().queues[0].busy_agents, 1);
        desk.tick(now + Duration::from_secs(2));
        assert_eq!(desk.state().queues[0].busy_agents, 0);
    }

    #[test]
    fn releasing_a_stranger_or_asking_for_an_unknown_skill_changes_nothing() {
        let (mut desk, now) = (desk(1), Instant::now());
        let before = desk.state();
        desk.release("billing-01.b2", now);
        assert!(desk.assign("juggling", "1", now).is_none());
        assert_eq!(desk.state(), before);
    }

    #[test]
    fn the_queue_is_bounded() {
        let (mut desk, now) = (desk(0), Instant::now());
        for call in 0..MOST_WAITING + 10 {
            ask(&mut desk, &call.to_string(), now);
        }
        assert_eq!(desk.state().queues[0].waiting as usize, MOST_WAITING);
    }
}
