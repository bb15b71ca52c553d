// The upper half is red and the left half green: shows which way is up.
void mainImage(out vec4 c, in vec2 p) { c = vec4(step(0.5, p.y / iResolution.y), 1.0 - step(0.5, p.x / iResolution.x), fract(iTime), 1.0); }
