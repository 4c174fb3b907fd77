defmodule EmbeddedEpmd.Stats do
  @moduledoc """
  What this VM's server has done since it started, as `EmbeddedEpmd.stats/0` returns it.
  """

  alias EmbeddedEpmd.Native

  @typedoc """
  What this VM's server has done since it started.

    * `:requests` - requests over TCP, by kind and outcome; `:probes` are those over HTTP (`:health`)
    * `:connections` - how many were accepted in all, and how many of those were closed in favour of newer ones
      (`:evicted`); how many are open now, waiting for their request or reply (`:waiting`) or held by a registered
      node (`:registered`)
    * `:names` - how many nodes are registered with this server
    * `:role_changes` - how often the role changed
    * `:uptime` - milliseconds since the server started
    * `:descriptors` - the open file descriptors of the whole VM, and their limit; `nil` if the system does not report
      them (Linux does)
  """
  @type t :: %{
          requests: %{
            port_please: %{found: non_neg_integer(), not_found: non_neg_integer()},
            alive2: %{granted: non_neg_integer(), refused: non_neg_integer()},
            names: non_neg_integer(),
            dump: non_neg_integer(),
            kill: non_neg_integer(),
            stop: non_neg_integer(),
            probes: non_neg_integer(),
            not_permitted: non_neg_integer(),
            malformed: non_neg_integer()
          },
          connections: %{
            accepted: non_neg_integer(),
            waiting: non_neg_integer(),
            registered: non_neg_integer(),
            evicted: non_neg_integer()
          },
          names: non_neg_integer(),
          role_changes: non_neg_integer(),
          uptime: non_neg_integer(),
          descriptors: %{used: non_neg_integer() | nil, limit: non_neg_integer() | nil}
        }

  @doc false
  @spec read(Native.server()) :: t()
  def read(server) do
    metrics = Native.metrics(server)

    %{
      requests: %{
        port_please: Map.take(metrics, [:found, :not_found]),
        alive2: Map.take(metrics, [:granted, :refused]),
        names: metrics.names_requests,
        dump: metrics.dump,
        kill: metrics.kill,
        stop: metrics.stop,
        probes: metrics.probes,
        not_permitted: metrics.not_permitted,
        malformed: metrics.malformed
      },
      connections: Map.take(metrics, [:accepted, :waiting, :registered, :evicted]),
      names: metrics.names,
      role_changes: Native.status(server).changes,
      uptime: metrics.uptime,
      descriptors: descriptors()
    }
  end

  defp descriptors do
    used = with {:ok, files} <- File.ls("/proc/self/fd"), do: length(files)
    limits = with {:ok, text} <- File.read("/proc/self/limits"), do: Regex.run(~r/^Max open files +(\d+)/m, text)

    %{
      used: if(is_integer(used), do: used),
      limit: with([_, limit] <- limits, do: String.to_integer(limit), else: (_ -> nil))
    }
  end
end
