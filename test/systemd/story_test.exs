defmodule EmbeddedEpmd.Systemd.StoryTest do
  # The story that started this project: two services, of which the first one is stopped.
  use Support.ServiceCase

  test "as OTP has it: the daemon ends with the service that started it, and the other release is not found" do
    install(["prod", "stage"], [], "stock")
    start_in_turn(["prod", "stage"])
    daemon = inside(~w(pidof epmd))
    assert inside(~w(cat /proc/#{daemon}/cgroup)) =~ "prod.service"
    stop("prod")
    refute inside?(~w(test -e /proc/#{daemon})), "epmd outlived the service that started it"
    refute found?("stage")
    figure("bin/stage rpc: #{lost_rpc("stage")}")
  end

  test "with the guide's units: the other release is found at the first try, and there is no daemon" do
    install(["prod", "stage"])
    start_nodes(["prod", "stage"])
    watched = watch(["stage"])
    stop("prod")
    took = milliseconds(fn -> assert_rpc("stage") end)
    figure("bin/stage rpc: stage@#{hostname()} at the first try, #{took} ms")
    looked_up = looked_up(watched)
    # Of two users none of which names the other: who asked the one that ended may be reset.
    figure("#{looked_up.failed} of #{stop_watching(watched)} lookups meanwhile failed")
    assert looked_up.failed <= 3, looked_up.wrong
    refute daemon?()
  end
end
