// The miner under pm2, as most miners of Bittensor are run:
//
//     pm2 start deploy/pm2/ecosystem.config.js --only cascade-miner
//     pm2 save
//
// CASCADE names the program, CASCADE_CONFIG the settings file. pm2 sees a process, not a miner: `cascade doctor` asks the
// miner whether it is ready.
const program = process.env.CASCADE || ".venv/bin/cascade";

const common = {
  script: program,
  interpreter: "none",
  autorestart: true,
  // From 1 s on, longer after each failure, up to 15 s. Wrong settings (status 2) do not mend themselves; pm2 then says
  // "waiting restart" and starts nothing. A 0 here would keep down what the kernel ended for want of memory.
  exp_backoff_restart_delay: 1000,
  stop_exit_codes: [2],
  merge_logs: true,
  time: false,
};

module.exports = {
  apps: [
    {
      ...common,
      name: "cascade-miner",
      args: ["mine"],
      // Requests in flight are answered first: 9 seconds at most.
      kill_timeout: 15000,
    },
    {
      ...common,
      name: "cascade-nightly",
      args: ["nightly"],
      kill_timeout: 60000,
    },
  ],
};
