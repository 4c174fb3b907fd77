defmodule EmbeddedEpmd.ServiceManager do
  @moduledoc false
  # What systemd tells a service of the descriptors that it passes (sd_listen_fds(3)). The native side takes those that are
  # ours, from the environment that the VM was started with; here the VM's children are kept from taking them for theirs.
  # It runs while the VM boots, so it uses plain functions only.

  @doc "Unsets what told of descriptors that are ours. Those of others stay as they were passed."
  @spec forget() :: :ok
  def forget do
    if :os.getenv(~c"LISTEN_PID") == :os.getpid() do
      case :lists.reverse(:lists.dropwhile(&ours?/1, :lists.reverse(names()))) do
        [] ->
          :lists.foreach(&:os.unsetenv/1, [~c"LISTEN_PID", ~c"LISTEN_FDS", ~c"LISTEN_FDNAMES"])

        # systemd passes what was stored last, so the numbers of the others stay.
        others ->
          :os.putenv(~c"LISTEN_FDS", :erlang.integer_to_list(length(others)))
          :os.putenv(~c"LISTEN_FDNAMES", :lists.flatten(:lists.join(~c":", others)))
      end
    end

    :ok
  end

  defp names, do: :string.split(:os.getenv(~c"LISTEN_FDNAMES", ~c""), ~c":", :all)

  defp ours?(name),
    do: :lists.prefix(~c"epmd-", name) or name in [~c"", ~c"epmd"] or :lists.suffix(~c"epmd.socket", name)
end
