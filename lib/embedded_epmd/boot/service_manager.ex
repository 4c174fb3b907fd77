defmodule EmbeddedEpmd.Boot.ServiceManager do
  @moduledoc false
  # What systemd tells a service of the descriptors that it passes (sd_listen_fds(3)). The native side takes those that are
  # ours, from the environment that the VM was started with; here the rest of the VM is kept from taking them for its own.

  # The first descriptor that is passed.
  @first 3

  @doc """
  Unsets what tells of descriptors that are ours, by their numbers. Those of others stay as they were passed, named or
  not.
  """
  @spec forget([non_neg_integer()]) :: :ok
  def forget(ours) do
    _ =
      with true <- :os.getenv(~c"LISTEN_PID") == :os.getpid(),
           {count, []} <- :string.to_integer(:os.getenv(~c"LISTEN_FDS", ~c"")),
           others when others != count <- without_last(count, ours),
           do: tell(others)

    :ok
  end

  # The others keep their numbers, so only ours that come after all of them can be left out. systemd passes what was stored
  # last.
  defp without_last(count, ours) when count > 0 do
    if :lists.member(@first + count - 1, ours), do: without_last(count - 1, ours), else: count
  end

  defp without_last(count, _ours), do: count

  defp tell(0), do: :lists.foreach(&:os.unsetenv/1, [~c"LISTEN_PID", ~c"LISTEN_FDS", ~c"LISTEN_FDNAMES"])

  defp tell(count) do
    :os.putenv(~c"LISTEN_FDS", :erlang.integer_to_list(count))

    with names when names != false <- :os.getenv(~c"LISTEN_FDNAMES") do
      names = :lists.sublist(:string.split(names, ~c":", :all), count)
      :os.putenv(~c"LISTEN_FDNAMES", :lists.flatten(:lists.join(~c":", names)))
    end
  end
end
