//! The registered tasks, by name and by number.

use std::collections::HashMap;
use std::sync::Arc;

use super::options::TaskOptions;
use super::prefetch::Average;

/// One registered task.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) name: Arc<str>,
    pub(crate) options: TaskOptions,
    /// How long it usually runs.
    pub(crate) average: Average,
    /// Attributes that were changed by command, as they are shown; none is `None`.
    pub(crate) changed: HashMap<&'static str, Option<String>>,
}

/// All of them. A request keeps the number of its task, so that a name is looked up once.
#[derive(Debug)]
pub(crate) struct Tasks {
    numbers: HashMap<Arc<str>, u32>,
    all: Vec<Task>,
    /// Options of what is not registered.
    none: TaskOptions,
}

impl Tasks {
    pub(crate) fn new(options: HashMap<String, TaskOptions>) -> Self {
        let task = |(name, options): (String, _)| Task {
            name: name.into(),
            options,
            average: Average::default(),
            changed: HashMap::new(),
        };
        let tasks: Vec<Task> = options.into_iter().map(task).collect();
        let numbers = tasks.iter().zip(0..).map(|(task, number)| (task.name.clone(), number)).collect();
        Self { numbers, all: tasks, none: TaskOptions::default() }
    }

    pub(crate) fn number(&self, name: &str) -> Option<u32> {
        self.numbers.get(name).copied()
    }

    pub(crate) fn task(&self, number: u32) -> &Task {
        &self.all[number as usize]
    }

    pub(crate) fn task_mut(&mut self, number: u32) -> &mut Task {
        &mut self.all[number as usize]
    }

    /// All names, in no order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.all.iter().map(|task| &*task.name)
    }

    pub(crate) fn options(&self, number: Option<u32>) -> &TaskOptions {
        number.map_or(&self.none, |number| &self.task(number).options)
    }

    pub(crate) fn average_mut(&mut self, number: u32) -> &mut Average {
        &mut self.all[number as usize].average
    }
}
