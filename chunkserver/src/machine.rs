//! Measures how busy the machine is, for the heartbeats.

use sysinfo::{MemoryRefreshKind, System};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MachineLoad {
    /// The share of all cores together that was busy since the last measurement, 0 to 100.
    pub cpu_percent: u32,
    pub memory_total_bytes: u64,
    pub memory_available_bytes: u64,
}

/// The seam to the machine's figures, for which the simulation has its own. Its calls block.
pub trait Machine: Send + 'static {
    fn measure(&mut self) -> MachineLoad;
}

/// Asks the operating system. Only the figures that are reported are refreshed.
pub struct RealMachine(Option<System>);

/// Always answers the same figures, for simulations and tests.
pub struct FixedMachine(pub MachineLoad);

impl RealMachine {
    pub fn new() -> RealMachine {
        RealMachine(System::new().ok())
    }
}

impl Default for RealMachine {
    fn default() -> RealMachine {
        RealMachine::new()
    }
}

impl Machine for RealMachine {
    fn measure(&mut self) -> MachineLoad {
        let Some(system) = &mut self.0 else { return MachineLoad::default() };
        system.refresh_cpu_usage();
        system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
        MachineLoad {
            cpu_percent: system.global_cpu_usage().round().clamp(0.0, 100.0) as u32,
            memory_total_bytes: system.total_memory(),
            memory_available_bytes: system.available_memory(),
        }
    }
}

impl Machine for FixedMachine {
    fn measure(&mut self) -> MachineLoad {
        self.0
    }
}
