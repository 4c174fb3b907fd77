defmodule Support.Container do
  @moduledoc """
  The container that `bin/test-systemd` boots: a host without a network, whose first process is systemd.
  """

  import ExUnit.Assertions
  import Support.Deadline

  @environment ~w(PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8)

  @doc "Its name, which bin/test-systemd.d/host.sh has as well."
  def hostname, do: "ep"

  @doc "The folder for what is told of a run; nil where `bin/test-systemd` does not run this."
  def logs, do: System.get_env("EMBEDDED_EPMD_CONTAINER")

  @doc "Waits until it has booted."
  def await_boot do
    assert logs(), "bin/test-systemd runs these tests"
    assert_within(60, leader())
    assert_within(90, up?())
    let_memory_be_limited()
  end

  @doc "Boots it again."
  def reboot do
    leader = leader()
    inside(~w(systemctl reboot))
    assert_within(30, not File.exists?("/proc/#{leader}"))
    await_boot()
  end

  @doc "Runs a command in it, which must succeed; returns its output."
  def inside(command) do
    {output, status} = run(command)
    if status != 0, do: flunk("#{Enum.join(command, " ")} ended with status #{status}: #{output}")
    String.trim(output)
  end

  @doc "Whether a command succeeds in it."
  def inside?(command), do: match?({_, 0}, run(command))

  @doc "Runs a command in it, for up to two minutes; returns its output and status."
  def run(command), do: System.cmd("timeout", ~w(--kill-after=5 120) ++ enter() ++ command, stderr_to_stdout: true)

  @doc "What a command has before it to run in it."
  def enter do
    leader = leader() || flunk("there is no container")
    ~w(nsenter --target #{leader} --all env -i) ++ @environment
  end

  @doc "Writes a file into it."
  def write(path, text) do
    path = "/proc/#{leader()}/root" <> path
    File.mkdir_p!(Path.dirname(path))
    File.write!(path, text)
  end

  @doc "Writes the end of its journal into a file."
  def save_journal(file) do
    {journal, _} = run(~w(journalctl --no-pager --lines=60 --output=short-precise))
    File.write!(file, journal)
  end

  @doc "Ends what tests start in it, and removes what they install and log."
  def reset do
    units = ~w(prod* stage* third* other* stock* cnode* *epmd* rabbitmq* ejabberd*)

    run([
      "sh",
      "-c",
      """
      systemctl list-units --all --plain --no-legend "$@" | cut -d" " -f1 >/run/left
      xargs -r systemctl kill --signal=KILL </run/left
      xargs -r systemctl stop </run/left
      systemctl disable --quiet epmd.socket epmd.service
      kill $(pidof epmd)
      cd /etc/systemd/system && rm -rf prod* stage* third* other* epmd* rabbitmq* ejabberd* */prod* */stage* */third*
      systemctl daemon-reload
      systemctl reset-failed
      rm -rf /opt/config
      journalctl --quiet --rotate
      journalctl --quiet --vacuum-time=1s
      """,
      "sh" | units
    ])
  end

  # The first process of the only other process namespace.
  defp leader do
    Enum.find(File.ls!("/proc"), fn pid ->
      with {:ok, status} <- File.read("/proc/#{pid}/status"), do: status =~ ~r/^NSpid:\t\d+\t1$/m, else: (_ -> false)
    end)
  end

  defp up? do
    {state, _} = run(~w(systemctl is-system-running))
    String.trim(state) in ["running", "degraded"]
  end

  # Memory has a hierarchy of its own where the machine has control groups of version 1, which nspawn leaves read-only.
  defp let_memory_be_limited do
    memory = "/sys/fs/cgroup/memory"

    if File.dir?(memory) and not inside?(~w(test -w #{memory})) do
      inside(~w(mount -o remount,rw,bind #{memory}))
      inside(~w(systemctl daemon-reexec))
    end
  end
end
