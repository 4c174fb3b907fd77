defmodule Support.StockNode do
  @moduledoc """
  Nodes of others in the container, each a unit of its own, and the connections over which they are registered.
  """

  import Support.Container

  alias Support.Service

  @doc "Starts nodes as OTP has them, which start no daemon; returns their names."
  def start_stock(count) do
    names = for n <- 1..count, do: "stock#{n}"
    for name <- names, do: start_unit(name, ~w(erl -noinput -sname #{name} -start_epmd false -setcookie stock))
    Service.await_nodes(names)
    names
  end

  @doc "Starts a C node; returns its name."
  def start_c_node do
    start_unit("cnode", ["sh", "-c", "sleep infinity | exec /opt/made/cnode cnode"])
    Service.await_node("cnode")
    "cnode"
  end

  @doc "Starts a command as a unit of this name."
  def start_unit(name, options \\ ["--setenv=HOME=/root"], command),
    do: inside(~w(systemd-run --quiet --unit=#{name}) ++ options ++ command)

  @doc "The connections to the EPMD of these units: program, local port and inode of each."
  def sockets(units) do
    all = inside(~w(ss -Htnpe state established) ++ ["dport = :4369"]) |> String.split("\n")

    for unit <- units, pid <- processes(unit), socket <- all, socket =~ "pid=#{pid}," do
      [_, port, program, inode] = Regex.run(~r/:(\d+) +\S+:4369 .*"([^"]+)".*ino:(\d+)/, socket)
      {program, port, inode}
    end
    |> Enum.sort()
  end

  # systemd has a hierarchy of its own where control groups are of version 1.
  defp processes(unit) do
    group = "system.slice/#{unit}.service/cgroup.procs"
    {pids, _} = run(["sh", "-c", "cd /sys/fs/cgroup && cat systemd/#{group} 2>/dev/null || cat #{group} 2>/dev/null"])
    String.split(pids)
  end
end
